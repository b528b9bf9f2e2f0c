"""Weights relative to sums over their layer, output or input; no data needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvTransposeNd

from pbt_bench.models.prunable import packed_projections
from pbt_bench.pruning.plugins import statistic
from pbt_bench.pruning.task import Task, Tensors

TINY = torch.finfo(torch.float64).tiny  # in place of sums of zeros, which are divisors


@statistic(
    cite="Lee et al. 2021, arXiv:2010.07611",
    data=False,
    symbol=r"Q",
    formula=r"Q = \sum_{\vert\theta'\vert \ge \vert\theta\vert} \theta'^2",
)
def larger_squares(task: Task) -> Tensors:
    """Compute the sum of θ'² over all weights of the layer that are not smaller, in float64.

    Of equal weights, the sum of the last does not include the others, so that the first is pruned before them.
    """
    sums = {}
    for name, layers in _layers(task).items():
        found = []
        for weight in layers:
            squares = weight.double().square().flatten()
            order = squares.argsort(stable=True).flip(0)
            total = torch.zeros_like(squares).scatter_(0, order, squares[order].cumsum(0)).clamp_min_(TINY)
            found.append(total.view(weight.shape))
        sums[name] = torch.cat(found)
    return sums


def _layers(task: Task) -> dict[str, Sequence[Tensor]]:
    """Return the weights of the layers of each tensor: one, or three if it packs the projections of an attention."""
    packed = packed_projections(task.model)
    return {name: weight.chunk(3) if name in packed else [weight] for name, weight in task.weights.items()}


@statistic(
    cite="Zhang et al. 2024, ICLR, OpenReview Tr0lPx9woF",
    data=False,
    symbol=r"\mathrm{RI}",
    formula=r"\mathrm{RI}_{ij} = \frac{\vert\theta_{ij}\vert}{\sum_k \vert\theta_{ik}\vert} "
    r"+ \frac{\vert\theta_{ij}\vert}{\sum_k \vert\theta_{kj}\vert}",
)
def relative_weight(task: Task) -> Tensors:
    """Compute |θ| / Σ|θ'| over the weights of its output, plus the same over the weights of its input, in float64.

    An output of a convolution is a channel; an input is a channel at one kernel position.
    """
    names = {id(parameter): name for name, parameter in task.parameters.items()}
    layers = {names.get(id(module._parameters.get("weight"))): module for module in task.model.modules()}
    shares = {}
    for name, parts in _layers(task).items():
        transposed, groups = isinstance(layers.get(name), _ConvTransposeNd), getattr(layers.get(name), "groups", 1)
        output, entry = (2, 1) if transposed else (1, 2)  # dimensions of outputs and inputs within a group
        found = []
        for weight in parts:
            w = weight.double().abs().reshape(groups, len(weight) // groups, weight.shape[1], -1)
            total = sum(w / w.sum(dim, keepdim=True).clamp_min(TINY) for dim in ((entry, 3), output))
            found.append(torch.as_tensor(total).reshape(weight.shape))
        shares[name] = torch.cat(found)
    return shares
