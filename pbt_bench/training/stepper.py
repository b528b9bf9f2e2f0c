"""Optimiser steps on a masked model: sparsity is exact after every step, and an epoch never waits for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pbt_bench.data.image_tensors import Augmentation
from pbt_bench.data.run_data import Data
from pbt_bench.models.prunable import Masks
from pbt_bench.seeds import derive, stream
from pbt_bench.sparse.compact_network import Compact
from pbt_bench.sparse.kept_weights import KeptWeights
from pbt_bench.spec import Recipe
from pbt_bench.training.optimizer import learning_rate, optimizer

State = dict[str, Any]  # tensors and plain values only: loading a state executes no code


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

    def train(self, end: int, after_step: Callable[[], None] = lambda: None) -> None:
        """Train up to step `end`, counted from the beginning of the first epoch."""
        while self.step < end:
            done, into = divmod(self.step, self.steps_per_epoch)
            self.epoch(done + 1, end - self.step + into, after_step)

    def begin_at(self, step: int) -> None:
        """Count the next step as step `step` + 1: it has the data and the learning rate of that step.

        Augmentation and dropout of an epoch begun in the middle are drawn as at its beginning.
        """
        self.step = step
        done, into = divmod(step, self.steps_per_epoch)
        self._now = _Epoch(done + 1, self.data.train.targets.device, *self._streams)
        self._now.steps = into

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
        epoch, device = state["epoch"], self.data.train.targets.device
        self._now = epoch and _Epoch(epoch["number"], device, *self._streams, epoch)

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
