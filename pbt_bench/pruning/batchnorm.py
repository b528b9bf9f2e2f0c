"""The batch normalisation of the scored model: `running`, `batch` or `calibrated` statistics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def layers(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch-normalisation modules of `model`."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def dependent(model: nn.Module, mode: str) -> bool:
    """Return whether samples depend on each other because some layer normalises by the batch.

    A layer with `track_running_stats=False` has no running statistics to take, in eval mode neither.
    """
    return any(mode == "batch" or norm.running_mean is None for norm in layers(model))


def joined(batches: Sequence[tuple[Tensor, Tensor]]) -> Sequence[tuple[Tensor, Tensor]]:
    """Join a last batch of one sample, which has no statistics of its own, to a larger batch before it."""
    if len(batches) < 2 or len(batches[-1][1]) > 1 or len(batches[-2][1]) == 1:
        return batches
    (x, y), (last, label) = batches[-2:]
    return [*batches[:-2], (torch.cat([x, last]), torch.cat([y, label]))]


def set_mode(model: nn.Module, mode: str, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Put `model` into eval mode, and its batch normalisation into `mode`. Call inside `preserved`.

    running     normalise by the running statistics as they stand;
    batch       normalise each forward by its own batch: samples are no longer independent;
    calibrated  first set the running statistics to the mean over `batches` of the batch statistics
                (exactly those of the data when there is one batch), then as `running`.
    """
    model.eval()
    norms = layers(model)
    if mode == "calibrated" and norms:
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average
            norm.train()
        with torch.no_grad():
            for inputs, _ in batches:
                model(inputs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
    elif mode == "batch":
        for norm in norms:
            norm.train()
