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
from pbt_bench.training.mask_updates import MaskUpdates
from pbt_bench.training.optimizer import learning_rate, optimizer

State = dict[str, Any]  # tensors and plain values only: loading a state executes no code


def batches(images: int, size: int) -> Iterator[slice]:
    """Yield the slices of an epoch's batches, without a last batch of one image if there are others."""
    for start in range(0, images, size):
        if start == 0 or images - start > 1:  # batch normalisation needs at least two samples
            yield slice(start, start + size)


class Stepper:
    """Take optimiser steps on a model whose pruned weights stay exactly zero.

    With `updates`, `masks` change during the training; the network's execution is prepared again after each update.

    Each random draw has its own stream of (seed, purpose, epoch), so an epoch depends only on the weights, the
    optimiser's state and the epoch number. After `load`, training continues to the same bits from any saved `state`.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Masks,
        data: Data,
        recipe: Recipe,
        seed: int,
        purpose: str,
        updates: MaskUpdates | None = None,
    ) -> None:
        self.model, self.data, self.recipe = model, data, recipe
        self._streams = (seed, purpose)
        model.to(memory_format=torch.channels_last)  # convolutions are faster in it, on CPU and GPU
        self._updates = updates
        self.update_count, self.grown_weights = 0, 0  # so far: mask updates, and weights that they added
        self._set_masks(masks)
        self.steps_per_epoch = len(list(batches(len(data.train), recipe.batch_size)))
        self.step = 0
        self._now: _Epoch | None = None

    def _set_masks(self, masks: Masks) -> None:
        """Set pruned weights to zero, choose how the network is executed, and create the optimiser."""
        self.masks = masks
        model, data, recipe = self.model, self.data, self.recipe
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
        self._updated = {name: self._kept[name].vector if name in self._kept else p for name, p in parameters.items()}
        self.optimizer = optimizer(recipe, list(self._updated.values()))

    def _update_masks(self, updates: MaskUpdates, step: int) -> None:
        """Change the masks. New weights are zero, and so is the optimiser's state of new and dropped weights."""
        before, after = self.masks, updates.masks(self.model, self.masks, step, self._steps)
        self.model.zero_grad(set_to_none=True)
        self.update_count += 1
        grown = sum(int((mask & ~before[name]).count_nonzero()) for name, mask in after.items())
        if not grown and all(torch.equal(mask, before[name]) for name, mask in after.items()):
            return
        self.grown_weights += grown
        old, kept = self.optimizer.state, self._kept
        states = {name: old[parameter] for name, parameter in self._updated.items() if parameter in old}
        training = self.model.training
        self._set_masks(after)
        self.model.train(training)
        for name, state in states.items():
            parameter = self._updated[name]
            for key, value in state.items():
                if isinstance(value, Tensor) and value.ndim:
                    dense = kept[name].scatter(value) if name in kept else value
                    if name in after:
                        dense = dense.masked_fill(~(before[name] & after[name]), 0)
                    value = self._kept[name].gather(dense) if name in self._kept else dense
                self.optimizer.state[parameter][key] = value

    @property
    def _steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    def _mask(self) -> None:
        if self._weights:
            torch._foreach_mul_(self._weights, self._masks)

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
            parts = list(batches(len(train), recipe.batch_size))[now.steps : most_steps]
            augmentation = Augmentation(recipe.augment, recipe.crop_padding, now.augmentation)
            for batch in train.batches(order, parts, augmentation):
                inputs = self.data.inputs(batch.pixels)
                updates = self._updates
                replaced = updates if updates and updates.due(self.step, self._steps, before=True) else None
                for group in self.optimizer.param_groups:
                    group["lr"] = self.learning_rate
                self.optimizer.zero_grad(set_to_none=True)
                cast = torch.autocast(inputs.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")
                with cast, nullcontext() if replaced else self.execution:  # pruned weights need gradients to grow
                    logits = self.model(inputs)
                    loss = F.cross_entropy(logits, batch.targets, label_smoothing=recipe.label_smoothing)
                loss.backward()
                if replaced:
                    self._update_masks(replaced, self.step)
                else:
                    for kept in self._kept.values():
                        kept.read_gradient()
                    self.optimizer.step()
                    for kept in self._kept.values():
                        kept.write()
                    self._mask()
                self.step += 1
                if updates and updates.due(self.step, self._steps, before=False):
                    self._update_masks(updates, self.step)
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
        changed = {"masks": self.masks, "update_count": self.update_count, "grown_weights": self.grown_weights}
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "epoch": self._now and self._now.state(),
        } | (changed if self._updates else {})

    def load(self, state: State) -> None:
        """Restore `state`. Raises various errors of torch if it belongs to another training."""
        if self._updates:
            self._set_masks({name: state["masks"][name].to(mask.device) for name, mask in self.masks.items()})
            self.update_count, self.grown_weights = state["update_count"], state["grown_weights"]
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
