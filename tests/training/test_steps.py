"""Tests of training steps: updates, order and augmentation of images, curves, warm-up."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from few_images import Watched, few
from torch import Tensor, nn

from pbt_bench.pruning.diagnosis import all_kept
from pbt_bench.spec import Recipe
from pbt_bench.training import loop
from pbt_bench.training.loop import evaluate, train, warm_up
from pbt_bench.training.stepper import Stepper


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
    """Compare four steps of multinomial regression on all images with the formulas of the optimizers."""
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
    """Compare with the means of one pass, at learning rate 0. A last batch of one image is omitted."""
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
    """Check that epochs count from 1, with other random streams than in training."""
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
