"""Train one masked model: exact sparsity after every step, no host synchronisation inside an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from math import isfinite
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pbt_bench.data.images import Data, Images, augment
from pbt_bench.pruning.diagnosis import realised_sparsity
from pbt_bench.pruning.masks import Masks
from pbt_bench.seeds import stream
from pbt_bench.spec import Recipe
from pbt_bench.training.compact import Compact
from pbt_bench.training.optimizer import learning_rate, optimizer

EVALUATION_BATCH = 512


@dataclass(frozen=True)
class EpochResult:
    """One epoch. Losses are mean cross-entropy; None where there are no validation images."""

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
    """The curve, and the state dict of the epoch with the best validation accuracy (the first such epoch)."""

    curve: tuple[EpochResult, ...]
    best_epoch: int | None
    best_state: dict[str, Tensor] | None  # None if the best epoch is the last: the model is in that state
    diverged: bool
    best_test: float | None = None  # the highest test accuracy of any epoch, if the recipe asks for it


class Stepper:
    """Takes optimiser steps on a model whose pruned weights stay exactly zero.

    Each random draw has its own stream of (seed, purpose, epoch), so an epoch is a function of the weights,
    the optimiser's state and its number alone.
    """

    def __init__(self, model: nn.Module, masks: Masks, data: Data, recipe: Recipe, seed: int, purpose: str) -> None:
        self.model, self.data, self.recipe = model, data, recipe
        self._streams = (seed, purpose)
        model.to(memory_format=torch.channels_last)  # convolutions are faster so, on a CPU and on a GPU
        parameters = dict(model.named_parameters())
        partial = {name: mask for name, mask in masks.items() if not bool(mask.all())}
        self._weights = [parameters[name].data for name in partial]
        self._masks = [mask.to(parameters[name].dtype) for name, mask in partial.items()]
        self._compact = Compact(model, partial, recipe.execution == "compact") if recipe.execution != "dense" else None
        self.optimizer = optimizer(recipe, model)
        self.steps_per_epoch = len(list(self._batches(len(data.train))))
        self.step = 0
        self._mask()

    def _mask(self) -> None:
        if self._weights:
            torch._foreach_mul_(self._weights, self._masks)

    def _batches(self, n: int) -> Iterator[slice]:
        size = self.recipe.batch_size
        for start in range(0, n, size):
            if start == 0 or n - start > 1:  # batch normalisation needs two samples
                yield slice(start, start + size)

    def epoch(self, number: int, most_steps: int | None = None) -> tuple[Tensor, Tensor]:
        """Train epoch `number` (from 1), of at most `most_steps`; (summed loss, correct answers) on the device."""
        seed, purpose = self._streams
        train, recipe = self.data.train, self.recipe
        order = torch.randperm(len(train), generator=stream(seed, purpose, "order", number))
        order = order.to(train.targets.device)
        draws = stream(seed, purpose, "augmentation", number)
        loss_sum = torch.zeros((), device=order.device)
        correct = torch.zeros((), dtype=torch.int64, device=order.device)
        self.model.train()
        for part in list(self._batches(len(train)))[:most_steps]:
            batch = train[order[part]]
            inputs = self.data.inputs(augment(batch.pixels, recipe.augment, recipe.crop_padding, draws))
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate
            self.optimizer.zero_grad(set_to_none=True)
            cast = torch.autocast(inputs.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")
            with cast, self._compact or nullcontext():
                logits = self.model(inputs)
                loss = F.cross_entropy(logits, batch.targets, label_smoothing=recipe.label_smoothing)
            loss.backward()
            self.optimizer.step()
            self._mask()
            self.step += 1
            loss_sum += loss.detach() * len(batch)
            correct += (logits.detach().argmax(1) == batch.targets).sum()
        return loss_sum, correct

    @property
    def learning_rate(self) -> float:
        """Of the step to come."""
        return learning_rate(self.recipe, self.step, self.steps_per_epoch)


def warm_up(model: nn.Module, data: Data, recipe: Recipe, seed: int, duration: str) -> None:
    """Train the dense model in place for "N epochs" or "N steps", on its own random streams."""
    count, unit = duration.split()
    stepper = Stepper(model, {}, data, recipe, seed, "warm-up")
    left = int(count) * (stepper.steps_per_epoch if unit == "epochs" else 1)
    number = 0
    while left > 0:
        number += 1
        stepper.epoch(number, left)
        left -= stepper.steps_per_epoch


def train(
    model: nn.Module,
    masks: Masks,
    data: Data,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[EpochResult], None] = lambda result: None,
) -> Trained:
    """Train `model` in place under `masks` for `recipe.epochs`.

    Stops at the first epoch whose loss is not finite (diverged). Raises SparsityError if a pruned weight is
    not exactly zero at the end of an epoch.
    """
    stepper = Stepper(model, masks, data, recipe, seed, "train")
    parameters = dict(model.named_parameters())
    curve: list[EpochResult] = []
    best: tuple[float, int, dict[str, Tensor]] | None = None
    tests: list[float] = []
    for number in range(1, recipe.epochs + 1):
        start = perf_counter()
        first = stepper.step
        loss_sum, correct = stepper.epoch(number)
        seen = min(len(data.train), (stepper.step - first) * recipe.batch_size)
        loss = float(loss_sum) / seen
        rate = learning_rate(recipe, stepper.step - 1, stepper.steps_per_epoch)
        if not isfinite(loss):
            _clear(model, masks)
            return Trained(tuple(curve), best and best[1], best and best[2], True, max(tests, default=None))
        held = evaluate(model, data, data.validation) if len(data.validation) else None
        if recipe.test_every_epoch:
            tests.append(evaluate(model, data, data.test).accuracy)
        result = EpochResult(
            epoch=number,
            train_loss=loss,
            train_accuracy=int(correct) / seen,
            validation_loss=held.loss if held else None,
            validation_accuracy=held.accuracy if held else None,
            learning_rate=rate,
            realised_sparsity=realised_sparsity(parameters, masks),
            seconds=perf_counter() - start,
        )
        curve.append(result)
        if held and (best is None or held.accuracy > best[0]):
            last = number == recipe.epochs
            state = {} if last else {name: t.detach().clone() for name, t in model.state_dict().items()}
            best = (held.accuracy, number, state)
        on_epoch(result)
    return Trained(tuple(curve), best and best[1], (best and best[2]) or None, False, max(tests, default=None))


def _clear(model: nn.Module, masks: Masks) -> None:
    """Zero pruned weights that became NaN: multiplying by the mask cannot."""
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
def evaluate(model: nn.Module, data: Data, images: Images) -> Evaluation:
    """Loss and accuracy over all of `images`, in eval mode and float32."""
    model.eval()
    loss = torch.zeros((), device=images.targets.device)
    correct = torch.zeros((), dtype=torch.int64, device=images.targets.device)
    for pixels, targets in zip(
        images.pixels.split(EVALUATION_BATCH), images.targets.split(EVALUATION_BATCH), strict=True
    ):
        logits = model(data.inputs(pixels))
        loss += F.cross_entropy(logits, targets, reduction="sum")
        correct += (logits.argmax(1) == targets).sum()
    mean = float(loss) / len(images)
    return Evaluation(mean if isfinite(mean) else None, int(correct) / len(images))
