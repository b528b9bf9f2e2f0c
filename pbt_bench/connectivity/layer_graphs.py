"""The bipartite graph of a layer's mask: live units and the Ramanujan gap.

A layer is a graph between its inputs and its outputs, with an edge per kept weight. An output is a channel of a
convolution or a unit of a linear layer. An input is a unit, or a channel at one kernel position. The positions at which
a convolution is applied do not count. A layer with groups is a graph of that many parts without an edge between them.
The packed query, key and value maps of an attention are one layer, because they have the same inputs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

_LEAST_DEGREE = 3  # mean degree from which the bound of Ramanujan graphs is defined, as in the published code


def layer_graph(mask: Tensor, module: nn.Module | None) -> Tensor:
    """Return the mask of a layer as [groups, inputs, outputs]; `module` computes the layer."""
    groups = int(getattr(module, "groups", 1))
    first, second = len(mask) // groups, mask[0].numel() if mask.dim() < 3 else mask.shape[1]
    parts = mask.reshape(groups, first, second, -1)
    if isinstance(module, _ConvTransposeNd):  # its weight has the shape [inputs, outputs, ...]
        return parts.transpose(2, 3).reshape(groups, -1, second)
    return parts.reshape(groups, first, -1).transpose(1, 2)


def output_units(graph: Tensor) -> tuple[int, int]:
    """Return the number of outputs with an edge, and of all outputs."""
    used = graph.any(1)
    return int(used.sum()), used.numel()


def ramanujan_gap(graph: Tensor) -> float | None:
    """Compute √(d_in - 1) + √(d_out - 1) - σ₂.

    d_in and d_out are the mean degrees of the inputs and of the outputs that have an edge, σ₂ the second largest
    singular value of the graph's matrix. A Ramanujan graph has a gap of at least zero. The result is None if a mean
    degree is below 3. Source: Hoang et al. 2023, OpenReview uVcDssQff_; the quantity Δr of their code.
    """
    degrees = [graph.sum(dim).flatten() for dim in (2, 1)]
    degrees = [each[each > 0] for each in degrees]
    if not len(degrees[0]):
        return None
    means = [float(each.sum()) / len(each) for each in degrees]
    if min(means) < _LEAST_DEGREE:
        return None
    matrices = graph
    if len(graph) == 1:  # inputs and outputs without an edge add singular values of zero only
        matrices = graph[:, graph[0].any(1)][:, :, graph[0].any(0)]
    matrices = matrices.float()  # sums of products of 0 and 1 are exact
    if matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.transpose(1, 2)
    squares = torch.linalg.eigvalsh((matrices @ matrices.transpose(1, 2)).double()).flatten()
    second = float(squares.topk(2).values[1].clamp_min(0).sqrt())
    return sum(math.sqrt(mean - 1) for mean in means) - second
