"""Training keeps pruned weights exactly zero, and is a function of its arguments."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import pbt_bench
from pbt_bench.data import datasets
from pbt_bench.data.image_tensors import Images
from pbt_bench.data.run_data import Data, prepare
from pbt_bench.errors import SparsityError
from pbt_bench.models import build
from pbt_bench.pruning.diagnosis import all_kept, realised_sparsity
from pbt_bench.sparse.compact_network import Compact
from pbt_bench.spec import Recipe
from pbt_bench.training import loop
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


def few() -> Data:
    """Twelve 4 x 4 images of three classes; image i has one bright pixel, of value 10 + i, in its first column."""
    pixels = torch.zeros(12, 1, 4, 4, dtype=torch.uint8)
    pixels[:, 0, 1, 0] = torch.arange(10, 22)
    images = Images(pixels, torch.arange(12) % 3)
    return Data(images, images, images, 3, torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))


class Watched(nn.Module):
    """A linear classifier of `few` that keeps the pixels of each training batch, and what dropout made of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)
        self.pixels: list[Tensor] = []
        self.dropped: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.pixels.append((255 * x[:, 0]).round())
            self.dropped.append(nn.functional.dropout(torch.ones(30)))
        return self.linear(x.flatten(1))


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(momentum=0.0, weight_decay=0.0, schedule="constant"),
        Recipe(momentum=0.9, weight_decay=0.0, schedule="constant"),
        Recipe(momentum=0.9, weight_decay=0.0, schedule="constant", nesterov=True),
        Recipe(momentum=0.9, weight_decay=0.5, schedule="constant"),
        Recipe(momentum=0.9, weight_decay=0.0, schedule="constant", label_smoothing=0.3),
        Recipe(momentum=0.9, weight_decay=0.0, schedule="multistep", milestones=(1, 3), gamma=0.2),
        Recipe(optimizer="adamw", weight_decay=0.0, schedule="constant"),
        Recipe(optimizer="adamw", weight_decay=0.5, schedule="constant"),
    ],
    ids=["sgd", "momentum", "nesterov", "decay", "smoothing", "multistep", "adamw", "adamw-decay"],
)
def test_steps_are_those_of_the_recipe_computed_by_hand(recipe: Recipe) -> None:
    """Four steps of multinomial regression, all images in each batch, by the formulas of the optimizers."""
    data = few()
    data.train.pixels.random_(generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = Watched()
    w = torch.cat([model.linear.weight, model.linear.bias[:, None]], 1).detach().double()
    stepper = Stepper(model, {}, data, recipe, seed=0, purpose="test")
    for number in range(1, 5):
        stepper.epoch(number)

    x = torch.cat([data.train.pixels.flatten(1).double() / 255, torch.ones(12, 1)], 1)
    smooth = recipe.label_smoothing
    targets = (1 - smooth) * nn.functional.one_hot(data.train.targets, 3).double() + smooth / 3
    first = second = torch.zeros_like(w)
    for step in range(4):
        rate = recipe.learning_rate * recipe.gamma ** sum(step >= milestone for milestone in recipe.milestones)
        gradient = ((x @ w.T).softmax(1) - targets).T @ x / 12
        if recipe.optimizer == "adamw":
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            corrected = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
            w = (1 - rate * recipe.weight_decay) * w - rate * corrected[0] / (corrected[1].sqrt() + 1e-8)
        else:
            gradient = gradient + recipe.weight_decay * w
            first = recipe.momentum * first + gradient
            w = w - rate * (gradient + recipe.momentum * first if recipe.nesterov else first)
    torch.testing.assert_close(model.linear.weight.double(), w[:, :-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.linear.bias.double(), w[:, -1], rtol=1e-4, atol=1e-5)


def test_each_epoch_has_its_own_order_augmentation_and_dropout() -> None:
    model = Watched()
    train(model, all_kept(model), few(), Recipe(epochs=3, batch_size=4, augment="flip"), seed=0)
    epochs = [torch.cat(model.pixels[start : start + 3]) for start in (0, 3, 6)]
    orders = [epoch.amax((1, 2)).tolist() for epoch in epochs]
    flips = [epoch[:, :, 3].any(1).tolist() for epoch in epochs]
    by_image = [sorted(zip(order, flipped, strict=True)) for order, flipped in zip(orders, flips, strict=True)]
    assert all(sorted(order) == list(range(10, 22)) for order in orders), "each epoch has every image once"
    assert all(len(set(map(tuple, seen))) == 3 for seen in (orders, flips, by_image))
    assert len({tuple(ones.tolist()) for ones in model.dropped}) == 9, "dropout differs in every step of every epoch"


@pytest.mark.parametrize(("batch_size", "seen"), [(5, 12), (11, 11), (12, 12), (1, 11)])
def test_the_curve_holds_the_means_over_the_images_trained_on(batch_size: int, seen: int) -> None:
    """At learning rate 0 the means over the batches are those of one pass; a last batch of one image is left out."""
    recipe = Recipe(epochs=2, batch_size=batch_size, learning_rate=0.0)
    model, data = Watched(), few()
    result = train(model, all_kept(model), data, recipe, seed=0)
    all_of_them = evaluate(model, data, data.validation)
    for number, epoch in enumerate(result.curve):
        batches = len(model.pixels) // 2
        pixels = torch.cat(model.pixels[number * batches :][:batches])
        targets = (pixels.amax((1, 2)) - 10).long() % 3
        logits = model.linear(pixels.flatten(1) / 255).detach()
        assert len(pixels) == seen
        assert epoch.epoch == number + 1
        assert epoch.train_loss == pytest.approx(float(nn.functional.cross_entropy(logits, targets)), rel=1e-5)
        assert epoch.train_accuracy == pytest.approx(float((logits.argmax(1) == targets).float().mean()))
        assert (epoch.validation_loss, epoch.validation_accuracy) == (all_of_them.loss, all_of_them.accuracy)


def test_the_curve_holds_the_rate_of_the_last_step_and_the_highest_test_accuracy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accuracies = iter([0.1, 0.6, 0.3, 0.9, 0.2, 0.7])  # validation and test, epoch by epoch
    monkeypatch.setattr(loop, "evaluate", lambda *_: loop.Evaluation(1.0, next(accuracies)))
    model = Watched()
    monkeypatch.setattr(loop, "perf_counter", itertools.count(100).__next__)
    recipe = Recipe(epochs=3, batch_size=4, test_every_epoch=True)
    told: list[loop.EpochResult] = []
    result = train(model, all_kept(model), few(), recipe, seed=0, on_epoch=told.append)
    rates = [0.1 * (1 + math.cos(math.pi * step / 9)) / 2 for step in (2, 5, 8)]
    assert [epoch.learning_rate for epoch in result.curve] == pytest.approx(rates)
    assert (result.best_epoch, result.best_test, result.diverged) == (2, 0.9, False)
    assert tuple(told) == result.curve
    assert [epoch.seconds for epoch in result.curve] == [1, 1, 1]


def test_a_run_that_diverges_keeps_its_best_epoch_and_test_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exploding(Watched):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (torch.nan if len(self.pixels) > 2 else 1)

    accuracies = iter([0.5, 0.9, 0.6, 0.2])  # validation and test of the two epochs before
    monkeypatch.setattr(loop, "evaluate", lambda *_: loop.Evaluation(1.0, next(accuracies)))
    model = Exploding()
    weight = model.linear.weight.detach().clone()
    result = train(model, all_kept(model), few(), Recipe(epochs=4, test_every_epoch=True, learning_rate=0.0), seed=0)
    assert len(result.curve) == result.best_epoch == 2
    assert (result.diverged, result.best_test) == (True, 0.9)
    assert result.best_state is not None
    assert torch.equal(result.best_state["linear.weight"], weight)


@pytest.mark.parametrize(("duration", "steps"), [("2 epochs", 6), ("2 steps", 2), ("3 steps", 3), ("5 steps", 5)])
def test_a_warm_up_has_the_length_it_says(duration: str, steps: int) -> None:
    """Its epochs count from 1, and have other random streams than those of the training."""
    recipe, models = Recipe(batch_size=4, epochs=2, augment="flip"), [Watched(), Watched(), Watched()]
    warm_up(models[0], few(), recipe, seed=0, duration=duration)
    stepper = Stepper(models[1], {}, few(), recipe, seed=0, purpose="warm-up")
    stepper.epoch(1)
    stepper.epoch(2)
    train(models[2], all_kept(models[2]), few(), recipe, seed=0)
    seen, by_steps, trained = (torch.stack(model.pixels[:steps]) for model in models)
    assert len(models[0].pixels) == steps
    assert torch.equal(seen, by_steps)
    assert not torch.equal(seen, trained)


def test_one_training_image_is_a_batch() -> None:
    data = few()
    data = replace(data, train=data.train[torch.arange(1)])
    assert Stepper(Watched(), {}, data, Recipe(), seed=0, purpose="test").steps_per_epoch == 1


def test_bfloat16_is_for_training_alone() -> None:
    kinds = set()

    class Kinds(Watched):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            kinds.add((self.training, logits.dtype))
            return logits

    for precision in ("float32", "bfloat16"):
        model = Kinds()
        train(model, all_kept(model), few(), Recipe(epochs=1, precision=precision), seed=0)
        trained_in = torch.bfloat16 if precision == "bfloat16" else torch.float32
        assert kinds == {(True, trained_in), (False, torch.float32)}
        assert model.linear.weight.dtype == torch.float32
        kinds.clear()


def test_the_first_of_equally_good_epochs_is_the_best() -> None:
    model = Watched()
    result = train(model, all_kept(model), few(), Recipe(epochs=3, learning_rate=0.0), seed=0)
    assert len({epoch.validation_accuracy for epoch in result.curve}) == 1
    assert result.best_epoch == 1


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
    """FINDINGS 2: where only gradients are masked, momentum makes the pruned network dense at the first step."""
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
    torch.rand(5)  # the global generator plays no part
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
    """FINDINGS 17: accuracy divided by nominal batch sizes."""

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
