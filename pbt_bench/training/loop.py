"""Train one masked model: exact sparsity after every step, no host synchronisation inside an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from math import isfinite
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pbt_bench.data.images import Augmentation, Data, Images
from pbt_bench.data.stream import Streamed
from pbt_bench.models.prunable import Masks
from pbt_bench.pruning.diagnosis import realised_sparsity
from pbt_bench.seeds import derive, stream
from pbt_bench.sparse.compact_network import Compact
from pbt_bench.sparse.kept_weights import Kept
from pbt_bench.spec import Recipe
from pbt_bench.training.optimizer import learning_rate, optimizer

EVALUATION_BATCH = 512

State = dict[str, Any]  # tensors and plain values only, so that loading one executes nothing
Poll = Callable[[Callable[[], State]], None]  # told after every step how to get the state; it may save it, or stop


class StateError(ValueError):
    """A saved state does not fit the run that it is given to."""


def no_poll(state: Callable[[], State]) -> None:
    """Nothing is saved."""


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
    the optimiser's state and its number alone. `state` after any step and `load` continue to the same bits.
    """

    def __init__(self, model: nn.Module, masks: Masks, data: Data, recipe: Recipe, seed: int, purpose: str) -> None:
        self.model, self.data, self.recipe = model, data, recipe
        self._streams = (seed, purpose)
        model.to(memory_format=torch.channels_last)  # convolutions are faster so, on a CPU and on a GPU
        parameters = dict(model.named_parameters())
        partial = {name: mask for name, mask in masks.items() if not bool(mask.all())}
        for name, mask in partial.items():
            parameters[name].data.mul_(mask)
        self.execution: AbstractContextManager[object] = nullcontext()
        self._kept: Mapping[str, Kept] = {}
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
            if start == 0 or n - start > 1:  # batch normalisation needs two samples
                yield slice(start, start + size)

    def epoch(self, number: int, most_steps: int | None = None, poll: Poll = no_poll) -> tuple[Tensor, Tensor]:
        """Train epoch `number` (from 1), of at most `most_steps`; (summed loss, correct answers) on the device.

        Continues within that epoch if `load` brought it.
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
                poll(self.state)
        return now.loss_sum, now.correct

    def state(self) -> State:
        """Everything that the steps to come depend on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "epoch": self._now and self._now.state(),
        }

    def load(self, state: State) -> None:
        """Continue from `state`. Raises what a state of another training makes torch raise."""
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
        """Of the step to come."""
        return learning_rate(self.recipe, self.step, self.steps_per_epoch)


class _Epoch:
    """An epoch in progress: its sums, and its random streams where the next step will read them."""

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
        """Set the global generators, which layers like dropout read and nothing else."""
        if self._saved is None:
            torch.manual_seed(self._seed)
            return
        torch.set_rng_state(self._saved["dropout"].cpu())
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self._saved["dropout_cuda"].cpu(), self._device)

    def state(self) -> State:
        """Of the moment after a step."""
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
def _fitting() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a state of another network, optimiser or version leads to
        raise StateError(f"{type(error).__name__}: {error}") from None


def warm_up(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    seed: int,
    duration: str,
    poll: Poll = no_poll,
    state: State | None = None,
) -> None:
    """Train the dense model in place for "N epochs" or "N steps", on its own random streams; from `state`, if any."""
    count, unit = duration.split()
    stepper = Stepper(model, {}, data, recipe, seed, "warm-up")
    total = int(count) * (stepper.steps_per_epoch if unit == "epochs" else 1)
    if state is not None:
        with _fitting():
            stepper.load(state)
    while stepper.step < total:
        done, into = divmod(stepper.step, stepper.steps_per_epoch)
        stepper.epoch(done + 1, total - stepper.step + into, poll)


def train(
    model: nn.Module,
    masks: Masks,
    data: Data,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[EpochResult], None] = lambda result: None,
    poll: Poll = no_poll,
    state: State | None = None,
) -> Trained:
    """Train `model` in place under `masks` for `recipe.epochs`; from `state`, which `poll` was given, if any.

    Stops at the first epoch whose loss is not finite (diverged). Raises SparsityError if a pruned weight is
    not exactly zero at the end of an epoch, StateError if `state` is of another training.
    """
    stepper = Stepper(model, masks, data, recipe, seed, "train")
    parameters = dict(model.named_parameters())
    curve: list[EpochResult] = []
    best: tuple[float, int, dict[str, Tensor]] | None = None
    tests: list[float] = []
    spent = 0.0  # seconds of the epoch in progress, before an interruption
    if state is not None:
        with _fitting():
            stepper.load(state["stepper"])
            curve = [EpochResult(**result) for result in state["curve"]]
            best, tests, spent = state["best"], state["tests"], state["seconds"]

    def at_step() -> State:
        return {
            "stepper": stepper.state(),
            "curve": [asdict(result) for result in curve],
            "best": best,
            "tests": tests,
            "seconds": perf_counter() - start,
        }

    def on_step(_: object = None) -> None:
        poll(at_step)

    for number in range(len(curve) + 1, recipe.epochs + 1):
        start = perf_counter() - spent
        spent = 0.0
        loss_sum, correct = stepper.epoch(number, poll=on_step)
        seen = min(len(data.train), (stepper.step - (number - 1) * stepper.steps_per_epoch) * recipe.batch_size)
        loss = float(loss_sum) / seen
        rate = learning_rate(recipe, stepper.step - 1, stepper.steps_per_epoch)
        if not isfinite(loss):
            _clear(model, masks)
            return Trained(tuple(curve), best and best[1], best and best[2], True, max(tests, default=None))
        with stepper.execution:
            held = evaluate(model, data, data.validation, on_step) if len(data.validation) else None
            if recipe.test_every_epoch:
                tests.append(evaluate(model, data, data.test, on_step).accuracy)
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
def evaluate(
    model: nn.Module, data: Data, images: Images | Streamed, on_batch: Callable[[], None] = lambda: None
) -> Evaluation:
    """Loss and accuracy over all of `images`, in eval mode and float32; a model that draws at random draws the same."""
    model.eval()
    device = images.targets.device
    loss = torch.zeros((), device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        for batch in images.in_order(EVALUATION_BATCH):
            logits = model(data.inputs(batch.pixels))
            loss += F.cross_entropy(logits, batch.targets, reduction="sum")
            correct += (logits.argmax(1) == batch.targets).sum()
            on_batch()
    mean = float(loss) / len(images)
    return Evaluation(mean if isfinite(mean) else None, int(correct) / len(images))
