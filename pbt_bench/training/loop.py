"""Train one masked model, with exact sparsity after every step and no host synchronisation inside an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from math import isfinite
from time import perf_counter
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pbt_bench.data.augmentation import Augmentation
from pbt_bench.data.images import ImageSet
from pbt_bench.data.run_data import Data
from pbt_bench.models.prunable import Masks
from pbt_bench.pruning.diagnosis import realised_sparsity
from pbt_bench.seeds import derive, stream
from pbt_bench.sparse.compact_network import Compact
from pbt_bench.sparse.kept_weights import KeptWeights
from pbt_bench.spec import Recipe
from pbt_bench.training import tuning
from pbt_bench.training.optimizer import learning_rate, optimizer

State = dict[str, Any]  # tensors and plain values only: loading a state executes no code


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
    best_test: float | None = None  # highest test accuracy of any epoch, if recipe.test_every_epoch


class Stepper:
    """Take optimiser steps on a model whose pruned weights stay exactly zero.

    Each random draw has its own stream of (seed, purpose, epoch), so an epoch depends only on the weights, the
    optimiser's state and the epoch number. After `load`, training continues to the same bits from any saved `state`.
    """

    def __init__(self, model: nn.Module, masks: Masks, data: Data, recipe: Recipe, seed: int, purpose: str) -> None:
        self.model, self.data, self.recipe = model, data, recipe
        self._streams = (seed, purpose)
        model.to(memory_format=torch.channels_last)  # convolutions are faster in it, on CPU and GPU
        parameters = dict(model.named_parameters())
        partial = {name: mask for name, mask in masks.items() if not bool(mask.all())}
        for name, mask in partial.items():
            parameters[name].data.mul_(mask)
        self.execution: AbstractContextManager[object] = nullcontext()
        self._kept: Mapping[str, KeptWeights] = {}
        if recipe.execution != "dense" and partial:
            example, always = data.inputs(data.train.example()), recipe.execution == "compact"
            compact = Compact(model, partial, example, min(recipe.batch_size, len(data.train)), always)
            self._kept = compact.kept
            if compact.plans:
                self.execution = compact
        rest = [name for name in partial if name not in self._kept]
        self._weights = [parameters[name].data for name in rest]
        self._masks = [partial[name].to(parameters[name].dtype) for name in rest]
        updated = [self._kept[name].vector if name in self._kept else p for name, p in parameters.items()]
        self.optimizer = optimizer(recipe, updated)
        self.steps_per_epoch = len(list(self._batches(len(data.train))))
        self.step = 0
        self._now: _Epoch | None = None

    def _mask(self) -> None:
        if self._weights:
            torch._foreach_mul_(self._weights, self._masks)

    def _batches(self, n: int) -> Iterator[slice]:
        size = self.recipe.batch_size
        for start in range(0, n, size):
            if start == 0 or n - start > 1:  # batch normalisation needs at least two samples
                yield slice(start, start + size)

    def epoch(
        self, number: int, most_steps: int | None = None, after_step: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, Tensor]:
        """Train epoch `number` (from 1), up to step `most_steps` of it; return (summed loss, correct answers).

        Both are tensors on the device. After `load` of a state within this epoch, continue from that state.
        """
        if self._now is None or self._now.number != number:
            self._now = _Epoch(number, self.data.train.targets.device, *self._streams)
        now, recipe, train = self._now, self.recipe, self.data.train
        order = torch.randperm(len(train), generator=stream(*self._streams, "order", number))
        device = train.targets.device
        self.model.train()
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            now.set_dropout()
            parts = list(self._batches(len(train)))[now.steps : most_steps]
            augmentation = Augmentation(recipe.augment, recipe.crop_padding, now.augmentation)
            for batch in train.batches(order, parts, augmentation):
                inputs = self.data.inputs(batch.pixels)
                for group in self.optimizer.param_groups:
                    group["lr"] = self.learning_rate
                self.optimizer.zero_grad(set_to_none=True)
                cast = torch.autocast(inputs.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")
                with cast, self.execution:
                    logits = self.model(inputs)
                    loss = F.cross_entropy(logits, batch.targets, label_smoothing=recipe.label_smoothing)
                loss.backward()
                for kept in self._kept.values():
                    kept.read_gradient()
                self.optimizer.step()
                for kept in self._kept.values():
                    kept.write()
                self._mask()
                self.step += 1
                now.steps += 1
                now.loss_sum += loss.detach() * len(batch)
                now.correct += (logits.detach().argmax(1) == batch.targets).sum()
                after_step()
        return now.loss_sum, now.correct

    def state(self) -> State:
        """Return everything that later steps depend on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "epoch": self._now and self._now.state(),
        }

    def load(self, state: State) -> None:
        """Restore `state`. Raises various errors of torch if it belongs to another training."""
        self.model.load_state_dict(state["model"])
        for kept in self._kept.values():
            kept.read()
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self._now = state["epoch"] and _Epoch(
            state["epoch"]["number"], self.data.train.targets.device, *self._streams, state["epoch"]
        )

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return learning_rate(self.recipe, self.step, self.steps_per_epoch)


class _Epoch:
    """An epoch in progress: its sums, and its random streams at the position of the next step."""

    def __init__(self, number: int, device: torch.device, seed: int, purpose: str, state: State | None = None) -> None:
        self.number, self._device = number, device
        self.steps = state["steps"] if state else 0
        self.loss_sum = torch.zeros((), device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.augmentation = stream(seed, purpose, "augmentation", number)
        self._seed = derive(seed, purpose, "dropout", number)
        self._saved = state
        if state is not None:
            self.loss_sum += state["loss_sum"].to(device)
            self.correct += state["correct"].to(device)
            self.augmentation.set_state(state["augmentation"].cpu())

    def set_dropout(self) -> None:
        """Set the global generators, which only layers such as dropout read."""
        if self._saved is None:
            torch.manual_seed(self._seed)
            return
        torch.set_rng_state(self._saved["dropout"].cpu())
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self._saved["dropout_cuda"].cpu(), self._device)

    def state(self) -> State:
        """Return the sums and the random streams after a step."""
        state = {
            "number": self.number,
            "steps": self.steps,
            "loss_sum": self.loss_sum,
            "correct": self.correct,
            "augmentation": self.augmentation.get_state(),
            "dropout": torch.get_rng_state(),
        }
        if self._device.type == "cuda":
            state["dropout_cuda"] = torch.cuda.get_rng_state(self._device)
        return state


@contextmanager
def _check_state() -> Iterator[None]:
    """Turn any error, as a state of another network, optimiser or version causes, into StateError."""
    try:
        yield
    except Exception as error:
        raise StateError(f"{type(error).__name__}: {error}") from None


def warm_up(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    seed: int,
    duration: str,
    saver: Saver | None = None,
    state: State | None = None,
) -> None:
    """Train the dense model in place for "N epochs" or "N steps" on its own random streams, from `state` if given."""
    count, unit = duration.split()
    stepper = Stepper(model, {}, data, recipe, seed, "warm-up")
    total = int(count) * (stepper.steps_per_epoch if unit == "epochs" else 1)
    if state is not None:
        with _check_state():
            stepper.load(state)

    def save_if_due() -> None:
        if saver and saver.due():
            saver.save(stepper.state())

    while stepper.step < total:
        done, into = divmod(stepper.step, stepper.steps_per_epoch)
        stepper.epoch(done + 1, total - stepper.step + into, save_if_due)


def train(
    model: nn.Module,
    masks: Masks,
    data: Data,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[EpochResult], None] = lambda result: None,
    saver: Saver | None = None,
    state: State | None = None,
) -> Trained:
    """Train `model` in place under `masks` for `recipe.epochs`, from `state` if given.

    Stops at the first epoch whose loss is not finite (diverged). Raises SparsityError if a pruned weight is
    not exactly zero at the end of an epoch, StateError if `state` is of another training.
    """
    stepper = Stepper(model, masks, data, recipe, seed, "train")
    parameters = dict(model.named_parameters())
    curve: list[EpochResult] = []
    best: tuple[float, int, dict[str, Tensor]] | None = None
    tests: list[float] = []
    spent = 0.0  # seconds of the current epoch before an interruption
    if state is not None:
        with _check_state():
            stepper.load(state["stepper"])
            curve = [EpochResult(**result) for result in state["curve"]]
            best, tests, spent = state["best"], state["tests"], state["seconds"]

    def save_if_due() -> None:
        if saver and saver.due():
            results = {"curve": [asdict(result) for result in curve], "best": best, "tests": tests}
            saver.save({"stepper": stepper.state(), "seconds": perf_counter() - start, **results})

    for number in range(len(curve) + 1, recipe.epochs + 1):
        start = perf_counter() - spent
        spent = 0.0
        loss_sum, correct = stepper.epoch(number, after_step=save_if_due)
        seen = min(len(data.train), (stepper.step - (number - 1) * stepper.steps_per_epoch) * recipe.batch_size)
        loss = float(loss_sum) / seen
        rate = learning_rate(recipe, stepper.step - 1, stepper.steps_per_epoch)
        if not isfinite(loss):
            _clear(model, masks)
            return Trained(tuple(curve), best and best[1], best and best[2], True, max(tests, default=None))
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
            realised_sparsity=realised_sparsity(parameters, masks),
            seconds=perf_counter() - start,
        )
        curve.append(result)
        if held and (best is None or held.accuracy > best[0]):
            last = number == recipe.epochs
            weights = {} if last else {name: t.detach().clone() for name, t in model.state_dict().items()}
            best = (held.accuracy, number, weights)
        on_epoch(result)
    return Trained(tuple(curve), best and best[1], (best and best[2]) or None, False, max(tests, default=None))


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
