"""Train one masked model for the epochs of a recipe, and evaluate it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite
from time import perf_counter
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pbt_bench.data.images import ImageSet
from pbt_bench.data.run_data import Data
from pbt_bench.errors import RequestError
from pbt_bench.models.prunable import Masks
from pbt_bench.pruning.diagnosis import realised_sparsity
from pbt_bench.spec import EARLY_CROP, Recipe
from pbt_bench.training import tuning
from pbt_bench.training.early_crop import EarlyCrop
from pbt_bench.training.mask_updates import MaskUpdates
from pbt_bench.training.optimizer import learning_rate
from pbt_bench.training.stepper import State, Stepper


class StateError(ValueError):
    """Raised when a saved state belongs to another training."""


class Saver(Protocol):
    """Decide when the state of a training is saved, and save it. Both methods may raise to end the training."""

    def due(self) -> bool:
        """Return whether to save the state after this step."""

    def save(self, state: State) -> None:
        """Save `state`; `train` and `warm_up` continue from it to the same bits."""


@dataclass(frozen=True)
class EpochResult:
    """Results of one epoch. Losses are mean cross-entropy in nats; None without validation images."""

    epoch: int  # from 1
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    realised_sparsity: float
    seconds: float


@dataclass(frozen=True)
class Trained:
    """The curve, and the state dict of the first epoch with the best validation accuracy."""

    curve: tuple[EpochResult, ...]
    best_epoch: int | None
    best_state: dict[str, Tensor] | None  # None if the best epoch is the last: the model has that state
    diverged: bool
    masks: Masks  # after the last mask update
    update_notes: dict[str, float]  # number of mask updates, and of weights that they added; empty without any
    best_test: float | None = None  # highest test accuracy of any epoch, if recipe.test_every_epoch


@contextmanager
def check_state() -> Iterator[None]:
    """Raise StateError for any error in the block, as a state of another network, optimiser or version causes."""
    try:
        yield
    except Exception as error:
        raise StateError(f"{type(error).__name__}: {error}") from None


def steps_of(duration: str | int, steps_per_epoch: int) -> int:
    """Return the number of steps of "N epochs", "N steps" or N. Raises RequestError for another duration."""
    if isinstance(duration, int) and duration >= 0:
        return duration
    if not (found := re.fullmatch(r"(\d+) (epochs|steps)", str(duration))):
        raise RequestError(f"duration {duration!r} must be 'N epochs', 'N steps' or a number of steps")
    return int(found[1]) * (steps_per_epoch if found[2] == "epochs" else 1)


def warm_up(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    seed: int,
    duration: str,
    saver: Saver | None = None,
    state: State | None = None,
    sparsity: float = 0.0,
) -> dict[str, float]:
    """Train the dense model in place on the random streams of a warm-up, from `state` if given.

    `duration` is "N epochs", "N steps", or "early_crop F" for the rule `EarlyCrop` with the factor F, without F
    1 - `sparsity`; the rule ends the warm-up at the last epoch of the recipe at the latest. Returns notes for the
    record, which only the rule has.
    """
    stepper = Stepper(model, {}, data, recipe, seed, "warm-up")
    name, _, factor = duration.partition(" ")
    rule = EarlyCrop(float(factor or 1 - sparsity)) if name == EARLY_CROP else None
    if state is not None:
        with check_state():
            stepper.load(state)
            rule = rule and EarlyCrop(rule.factor, state["rule"])

    def save_if_due() -> None:
        if saver and saver.due():
            saver.save(stepper.state() | ({"rule": rule.state()} if rule else {}))

    if rule is None:
        stepper.train(steps_of(duration, stepper.steps_per_epoch), save_if_due)
        return {}
    while rule.epochs < recipe.epochs:
        stepper.train((rule.epochs + 1) * stepper.steps_per_epoch, save_if_due)
        if rule.ends(model):
            break
    return {"steps": float(stepper.step), **rule.notes()}


def train(
    model: nn.Module,
    masks: Masks,
    data: Data,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[EpochResult], None] = lambda result: None,
    saver: Saver | None = None,
    state: State | None = None,
    begin: str | int = 0,
    updates: MaskUpdates | None = None,
) -> Trained:
    """Train `model` in place under `masks`, which `updates` change, up to the end of the recipe, from `state` if given.

    The first step is the one after `begin` ("N epochs", "N steps" or N steps): the weights are those of a training that
    came so far, and the curve begins with that epoch, whose training loss is that of the steps from `begin` on.
    Stops at the first epoch whose loss is not finite (diverged). Raises SparsityError if a pruned weight is
    not exactly zero at the end of an epoch, StateError if `state` is of another training.
    """
    stepper = Stepper(model, masks, data, recipe, seed, "train", updates)
    begun = steps_of(begin, stepper.steps_per_epoch)
    if begun:
        stepper.begin_at(begun)
    parameters = dict(model.named_parameters())
    curve: list[EpochResult] = []
    best: tuple[float, int, dict[str, Tensor]] | None = None
    tests: list[float] = []
    diverged = False
    spent = 0.0  # seconds of the current epoch before an interruption
    if state is not None:
        with check_state():
            stepper.load(state["stepper"])
            curve = [EpochResult(**result) for result in state["curve"]]
            best, tests, spent = state["best"], state["tests"], state["seconds"]

    def save_if_due() -> None:
        if saver and saver.due():
            results = {"curve": [asdict(result) for result in curve], "best": best, "tests": tests}
            saver.save({"stepper": stepper.state(), "seconds": perf_counter() - start, **results})

    for number in range(begun // stepper.steps_per_epoch + len(curve) + 1, recipe.epochs + 1):
        start = perf_counter() - spent
        spent = 0.0
        loss_sum, correct = stepper.epoch(number, after_step=save_if_due)
        passed = (number - 1) * stepper.steps_per_epoch
        seen = min(len(data.train), (stepper.step - passed) * recipe.batch_size)
        seen -= max(0, begun - passed) * recipe.batch_size  # images of the steps that are left out
        loss = float(loss_sum) / seen
        rate = learning_rate(recipe, stepper.step - 1, stepper.steps_per_epoch)
        if not isfinite(loss):
            _clear(model, stepper.masks)
            diverged = True
            break
        with stepper.execution:
            held = evaluate(model, data, data.validation, save_if_due) if len(data.validation) else None
            if recipe.test_every_epoch:
                tests.append(evaluate(model, data, data.test, save_if_due).accuracy)
        result = EpochResult(
            epoch=number,
            train_loss=loss,
            train_accuracy=int(correct) / seen,
            validation_loss=held.loss if held else None,
            validation_accuracy=held.accuracy if held else None,
            learning_rate=rate,
            realised_sparsity=realised_sparsity(parameters, stepper.masks),
            seconds=perf_counter() - start,
        )
        curve.append(result)
        if held and (best is None or held.accuracy > best[0]):
            last = number == recipe.epochs
            weights = {} if last else {name: t.detach().clone() for name, t in model.state_dict().items()}
            best = (held.accuracy, number, weights)
        on_epoch(result)
    return Trained(
        curve=tuple(curve),
        best_epoch=best and best[1],
        best_state=(best and best[2]) or None,
        diverged=diverged,
        masks=stepper.masks,
        update_notes={"updates": stepper.update_count, "grown_weights": stepper.grown_weights} if updates else {},
        best_test=max(tests, default=None),
    )


def _clear(model: nn.Module, masks: Masks) -> None:
    """Set pruned weights to zero, also those that became NaN, which multiplying by the mask does not."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask, 0)


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy (None if it is not finite) and accuracy in [0, 1]."""

    loss: float | None
    accuracy: float


@torch.no_grad()
def evaluate(
    model: nn.Module, data: Data, images: ImageSet, after_batch: Callable[[], None] = lambda: None
) -> Evaluation:
    """Return loss and accuracy over all of `images` in eval mode and float32, with the same random draws each time."""
    model.eval()
    device = images.targets.device
    loss = torch.zeros((), device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        for batch in images.in_order(tuning.EVALUATION_BATCH):
            logits = model(data.inputs(batch.pixels))
            loss += F.cross_entropy(logits, batch.targets, reduction="sum")
            correct += (logits.argmax(1) == batch.targets).sum()
            after_batch()
    mean = float(loss) / len(images)
    return Evaluation(mean if isfinite(mean) else None, int(correct) / len(images))
