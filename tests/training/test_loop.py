"""Tests of the training loop: masks, equal results, and accuracy."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from few_images import Watched, few
from torch import Tensor, nn

import pbt_bench
from pbt_bench.data import datasets
from pbt_bench.data.run_data import Data, prepare
from pbt_bench.errors import SparsityError
from pbt_bench.models import build
from pbt_bench.pruning.diagnosis import all_kept, realised_sparsity
from pbt_bench.sparse.compact_network import Compact
from pbt_bench.spec import Recipe
from pbt_bench.training.loop import evaluate, train, warm_up
from pbt_bench.training.optimizer import learning_rate
from pbt_bench.training.stepper import Stepper


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    dataset = datasets()["digits"].load(tmp_path_factory.mktemp("data"))
    return prepare(dataset, 0.15, 0, torch.device("cpu"))


def pruned(data: Data, sparsity: float = 0.9, method: str = "magnitude") -> tuple[nn.Module, dict[str, Tensor]]:
    model = build("resnet8", 1, 10, seed=0)
    batch = (data.inputs(data.train.pixels[:64]), data.train.targets[:64])
    masks = pbt_bench.prune(model, [batch], method=method, sparsity=sparsity)
    pbt_bench.apply(model, masks)
    return model, masks


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(learning_rate=0.1, momentum=0.9, weight_decay=5e-4),
        Recipe(learning_rate=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
        Recipe(optimizer="adamw", learning_rate=1e-3, weight_decay=0.1),
    ],
    ids=["momentum", "nesterov", "adamw"],
)
def test_pruned_weights_are_exactly_zero_after_every_step(data: Data, recipe: Recipe) -> None:
    model, masks = pruned(data)
    stepper = Stepper(model, masks, data, recipe, seed=0, purpose="test")
    parameters = dict(model.named_parameters())
    step = stepper.optimizer.step
    seen = 0

    def checked() -> None:
        nonlocal seen
        step()
        stepper._mask()
        for name, mask in masks.items():
            assert not parameters[name][~mask].any(), name
        seen += 1

    stepper.optimizer.step = checked  # type: ignore[method-assign,assignment]
    stepper.epoch(1)
    assert seen == stepper.steps_per_epoch
    assert realised_sparsity(parameters, masks) == pytest.approx(0.9, abs=1e-4)


def test_a_model_that_was_not_masked_is_masked_before_the_first_step() -> None:
    model = Watched()
    masks = all_kept(model)
    masks["linear.weight"][1] = False
    Stepper(model, masks, few(), Recipe(), seed=0, purpose="test")
    assert torch.equal(model.linear.weight != 0, masks["linear.weight"])


def test_sparsity_holds_after_a_warm_up_with_momentum(data: Data) -> None:
    """Exclude finding F20: momentum makes a network dense if only its gradients are masked."""
    recipe = Recipe(epochs=1, batch_size=64, learning_rate=0.1, momentum=0.9)
    model = build("vgg8", 1, 10, seed=0)
    warm_up(model, data, recipe, seed=0, duration="1 epochs")
    batch = (data.inputs(data.train.pixels[:64]), data.train.targets[:64])
    masks = pbt_bench.prune(model, [batch], method="magnitude", sparsity=0.99)

    leaky = copy.deepcopy(model)
    optimizer = torch.optim.SGD(leaky.parameters(), 0.1, momentum=0.9)
    nn.functional.cross_entropy(leaky(batch[0]), batch[1]).backward()
    optimizer.step()  # the momentum that a warm-up leaves behind
    pbt_bench.apply(leaky, masks)
    for name, parameter in leaky.named_parameters():
        if name in masks:
            parameter.grad.mul_(masks[name])  # type: ignore[union-attr]
    optimizer.step()
    with pytest.raises(SparsityError):
        realised_sparsity(dict(leaky.named_parameters()), masks)

    pbt_bench.apply(model, masks)
    result = train(model, masks, data, recipe, seed=0)
    assert result.curve[0].realised_sparsity == pytest.approx(0.99, abs=1e-4)
    assert realised_sparsity(dict(model.named_parameters()), masks) == result.curve[0].realised_sparsity


def test_a_leak_fails_the_run(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    model, masks = pruned(data)
    monkeypatch.setattr(Stepper, "_mask", lambda self: None)
    with pytest.raises(SparsityError, match="pruned weights are not zero"):
        train(model, masks, data, Recipe(epochs=1, batch_size=256), seed=0)


def test_same_arguments_same_bits_other_seed_other_bits(data: Data) -> None:
    def weights(seed: int) -> Tensor:
        model, masks = pruned(data)
        train(model, masks, data, Recipe(epochs=2, batch_size=128, augment="crop", crop_padding=1), seed=seed)
        return torch.cat([t.flatten().double() for t in model.state_dict().values()])

    first = weights(0)
    torch.rand(5)  # the global generator must have no effect
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_best_validation_epoch_is_kept(data: Data) -> None:
    model, masks = pruned(data, 0.5)
    result = train(model, masks, data, Recipe(epochs=4, batch_size=64, learning_rate=0.2), seed=0)
    accuracies = [epoch.validation_accuracy for epoch in result.curve]
    assert result.best_epoch == accuracies.index(max(a for a in accuracies if a is not None)) + 1
    if result.best_state is not None:
        model.load_state_dict(result.best_state)
    assert evaluate(model, data, data.validation).accuracy == max(a for a in accuracies if a is not None)


def test_divergence_is_a_state_and_leaves_pruned_weights_zero(data: Data) -> None:
    model, masks = pruned(data)
    result = train(model, masks, data, Recipe(epochs=3, learning_rate=1e30, schedule="constant"), seed=0)
    assert result.diverged
    assert len(result.curve) < 3
    assert realised_sparsity(dict(model.named_parameters()), masks) == pytest.approx(0.9, abs=1e-4)


def test_execution_is_that_of_the_recipe_and_changes_only_roundings(data: Data) -> None:
    weights = {}
    for execution in ("dense", "compact"):
        model, masks = pruned(data, 0.98)
        recipe = Recipe(execution=execution, batch_size=64, learning_rate=0.01)
        stepper = Stepper(model, masks, data, recipe, seed=0, purpose="test")
        assert isinstance(stepper.execution, Compact) == (execution == "compact")
        stepper.epoch(1, most_steps=4)
        weights[execution] = {name: p.detach() for name, p in model.named_parameters()}
    before = build("resnet8", 1, 10, seed=0)
    whole = Stepper(before, all_kept(before), data, recipe, seed=0, purpose="test")
    assert not isinstance(whole.execution, Compact), "a dense network is executed as it is"
    initial = before.state_dict()
    for name, weight in weights["dense"].items():
        moved = (weight - initial[name] * (weight != 0)).abs().max()
        torch.testing.assert_close(weights["compact"][name], weight, rtol=1e-3, atol=1e-3 * float(moved))


def test_accuracy_counts_every_image_once(data: Data) -> None:
    """Exclude finding F21: accuracy divided by the nominal batch size."""

    class Perfect(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(targets[: len(x)], 10).float() if len(x) == len(targets) else x

    images = data.validation
    targets = images.targets
    assert len(images) % 512 != 0
    assert evaluate(Perfect(), data, images).accuracy == 1.0


def test_losses_and_accuracies_are_means_over_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pbt_bench.training.tuning.EVALUATION_BATCH", 5)
    model, data = Watched(), few()
    logits = model.linear(data.test.pixels.flatten(1) / 255).detach()
    found = evaluate(model, data, data.test)
    assert found.loss == pytest.approx(float(nn.functional.cross_entropy(logits, data.test.targets)), rel=1e-6)
    assert found.accuracy == int((logits.argmax(1) == data.test.targets).sum()) / 12
    model.linear.weight.data[0] = torch.inf
    assert evaluate(model, data, data.test).loss is None


def test_without_validation_images_no_epoch_is_the_best() -> None:
    data, model = few(), Watched()
    data = replace(data, validation=data.train[torch.arange(0)])
    result = train(model, all_kept(model), data, Recipe(epochs=2), seed=0)
    assert [(epoch.validation_loss, epoch.validation_accuracy) for epoch in result.curve] == [(None, None)] * 2
    assert (result.best_epoch, result.best_state, result.best_test) == (None, None, None)


def test_a_model_that_draws_at_random_is_evaluated_alike(data: Data) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.randn(len(x), 10)

    before = torch.get_rng_state()
    first = evaluate(Noisy(), data, data.validation)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert evaluate(Noisy(), data, data.validation) == first
    torch.manual_seed(0)
    assert first.accuracy == float((torch.randn(203, 10).argmax(1) == data.validation.targets).double().mean())


def test_schedules() -> None:
    multistep = Recipe(schedule="multistep", milestones=(2, 3), gamma=0.1, learning_rate=1.0, epochs=4)
    assert [round(learning_rate(multistep, s, 2), 6) for s in range(8)] == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    cosine = Recipe(schedule="cosine", learning_rate=1.0, epochs=2)
    assert learning_rate(cosine, 0, 4) == 1.0
    assert learning_rate(cosine, 4, 4) == pytest.approx(0.5)
    warm = Recipe(schedule="constant", warmup_epochs=1, learning_rate=1.0, epochs=2)
    assert [learning_rate(warm, s, 4) for s in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_the_dense_network_is_not_masked(data: Data) -> None:
    model = build("vgg8", 1, 10, seed=0)
    masks = all_kept(model)
    result = train(model, masks, data, Recipe(epochs=1, batch_size=128), seed=0)
    assert result.curve[0].realised_sparsity == 0.0
