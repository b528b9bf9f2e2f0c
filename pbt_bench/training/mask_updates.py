"""Mask updates during training: the weights that SET, RigL and gradual magnitude pruning keep at an update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pbt_bench.mask_update_schedules import GMP, RigL, Schedule
from pbt_bench.models.prunable import Masks, packed_projections
from pbt_bench.pruning.masks import Ranking, pruned_count
from pbt_bench.seeds import stream


@dataclass(frozen=True)
class MaskUpdates:
    """Change the masks of one training by a schedule; `sparsity` and `scope` are those of the run."""

    schedule: Schedule
    sparsity: float
    scope: str
    seed: int

    def due(self, step: int, steps: int, *, before: bool) -> bool:
        """Return whether the masks change in place of the step after `step`, or, without `before`, after `step`."""
        return self.schedule.replaces_step == before and self.schedule.due(step, steps)

    @property
    def begins_dense(self) -> bool:
        """True if the network is dense before the first update."""
        return isinstance(self.schedule, GMP)

    @property
    def needs_gradient(self) -> bool:
        """True if new weights are chosen by the gradient of the loss with respect to all weights, pruned ones too."""
        return isinstance(self.schedule, RigL)

    def masks(self, model: nn.Module, masks: Masks, step: int, steps: int) -> Masks:
        """Return the masks after the update at `step` of `steps`.

        Of equal weights or gradients, the first of a layer are pruned. NaN counts as infinite, so that the number of
        kept weights is exact in a diverged training too.
        """
        parameters = {name: parameter for name, parameter in model.named_parameters() if name in masks}
        packed = packed_projections(model)
        if isinstance(self.schedule, GMP):
            sparsity = self.schedule.sparsity(step, steps, self.sparsity)
            scores = {name: _size(p).masked_fill(~masks[name], -1.0) for name, p in parameters.items()}
            total = sum(mask.numel() for mask in masks.values())
            return Ranking(scores, self.scope, True, packed).keep(total - pruned_count(sparsity, total), masks)
        share, draw = self.schedule.share(step, steps), _uniform(self.seed, step)
        found = {}
        for name, parameter in parameters.items():
            mask, weight = masks[name], parameter.detach()
            growth = parameter.grad if self.needs_gradient else draw(weight)
            if growth is None:  # the network does not use the parameter
                growth = torch.zeros_like(weight)
            parts = 3 if name in packed else 1
            layers = zip(weight.chunk(parts), mask.chunk(parts), growth.chunk(parts), strict=True)
            found[name] = torch.cat([drop_and_grow(*layer, share) for layer in layers])
        return found


def drop_and_grow(weight: Tensor, mask: Tensor, growth: Tensor, share: float) -> Tensor:
    """Return the mask of a layer without the smallest of its kept weights, and with as many of the largest `growth`.

    floor(share · kept weights) are dropped; they may grow again. Source: Evci et al. 2020, arXiv:1911.11134, Alg. 1.
    """
    kept = int(mask.count_nonzero())
    dropped = int(kept * share)
    if not dropped:
        return mask
    stay = _largest(_size(weight).masked_fill(~mask, -1.0), kept - dropped)
    return stay | _largest(_size(growth).masked_fill(stay, -1.0), dropped)


def _largest(values: Tensor, count: int) -> Tensor:
    return Ranking({"": values}, "global", once=True).keep(count)[""]


def _size(values: Tensor) -> Tensor:
    """Return absolute values, infinite for NaN."""
    return values.detach().abs().nan_to_num(torch.inf, torch.inf)


def _uniform(seed: int, step: int) -> Callable[[Tensor], Tensor]:
    """Return a function that draws a tensor of numbers in [0, 1), of a stream of this update alone."""
    generator = stream(seed, "train", "mask update", step)
    return lambda like: torch.rand(like.shape, generator=generator).to(like.device)
