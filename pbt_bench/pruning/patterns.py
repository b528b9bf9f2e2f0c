"""Masks of the patterns "N:M" and "channel" (`pbt_bench.pattern_names` reads their names).

Both see a weight as [groups, outputs, inputs, kernel positions]. Linear layers and convolutions have one such group:
dimension 0 holds the output channels, dimension 1 the input channels that each of them reads (one, in a depth-wise
convolution). The weight of a transposed convolution has its input channels, of all groups, in dimension 0 and the
output channels of a group in dimension 1; it is regrouped, so inputs and outputs mean the same for every layer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from pbt_bench.connectivity.live_weights import trace
from pbt_bench.errors import RequestError
from pbt_bench.linear_maps import LINEAR_MAPS, TRANSPOSED, Intercept
from pbt_bench.models.model_state import preserved
from pbt_bench.models.prunable import Masks, prunable


def transposed_groups(model: nn.Module) -> dict[str, int]:
    """Return weight name -> number of groups of every transposed convolution."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    modules = [module for module in model.modules() if isinstance(module, _ConvTransposeNd)]
    weights = [(module._parameters.get("weight"), module.groups) for module in modules]  # None: parametrised
    return {names[id(weight)]: groups for weight, groups in weights if weight is not None}


def n_of_m(scores: Mapping[str, Tensor], n: int, m: int, transposed: Mapping[str, int] | None = None) -> Masks:
    """Return masks that keep the n highest scores of every m consecutive inputs.

    The m weights belong to one output channel and one kernel position. Of equal scores, the first are pruned. Where the
    number of inputs is not a multiple of m, the last r < m of them keep ceil(r · n / m) weights, so a layer with one
    input per output, such as a depth-wise convolution, keeps all of its weights. `transposed` holds the
    `transposed_groups` of the network.
    """
    masks = {}
    for name, score in scores.items():
        masks[name] = torch.ones(score.shape, dtype=torch.bool, device=score.device)
        groups = (transposed or {}).get(name, 0)
        parts = (_by_output(tensor, groups).split(m, dim=2) for tensor in (score, masks[name]))
        for values, mask in zip(*parts, strict=True):
            size = values.shape[2]
            lowest = values.argsort(dim=2, stable=True)[:, :, : size - _kept(size, n, m)]
            mask.scatter_(2, lowest, False)  # into the mask, of which it is a view
    return masks


def n_of_m_kept(
    shapes: Mapping[str, tuple[int, ...]], n: int, m: int, transposed: Mapping[str, int] | None = None
) -> int:
    """Return the number of weights that `n_of_m` keeps in all, whatever the scores."""
    total = 0
    for name, shape in shapes.items():
        groups = (transposed or {}).get(name, 0)
        inputs = shape[0] // groups if groups else shape[1]
        total += prod(shape) // inputs * (inputs // m * n + _kept(inputs % m, n, m))
    return total


def _kept(size: int, n: int, m: int) -> int:
    """Return ceil(size · n / m), which is n of a whole group."""
    return -(-size * n // m)


def channels(model: nn.Module, scores: Mapping[str, Tensor], example: Tensor, least: int) -> Masks:
    """Return masks without the output channels that have the lowest sums of scores, over all layers.

    Output channels are removed from the lowest sum on; of equal sums, the first is removed, in the order of the layers.
    The channels of a layer that feeds the network's output through no further layer are never removed. With a channel,
    the weights that compute it are pruned, and every weight that is then on no path from input to output, by the rules
    of `trace`: those that only removed channels feed, or that feed only removed channels. A weight that is on no path
    even before (of an unused layer, or fed only by constants) is pruned only with its own channel.

    The number of removed channels is the smallest that prunes at least `least` weights. An exact
    number of weights is impossible, because a channel is pruned as a whole. The removal that disconnects the network
    prunes every weight that was on a path.

    A score of -inf marks a weight that was pruned before: it stays pruned and is not part of a sum. `example` is an
    input, of which only the shape counts. Raises RequestError if removing all channels prunes too few weights.
    """
    groups = transposed_groups(model)
    before = {name: score > -torch.inf for name, score in scores.items()}
    live = trace(model, before, example).live
    fixed = _layers_at_output(model, example)
    sums = []
    for name, score in scores.items():
        summed = _by_output(score.double().where(before[name], 0), groups.get(name, 0)).sum((2, 3)).flatten()
        sums.append(torch.full_like(summed, torch.inf) if name in fixed else summed)
    order = torch.cat(sums).argsort(stable=True)
    removable = sum(len(part) for name, part in zip(scores, sums, strict=True) if name not in fixed)

    def removed(count: int) -> Masks:
        kept = torch.ones_like(order, dtype=torch.bool).index_fill_(0, order[:count], False)
        masks = {}
        for (name, mask), part in zip(before.items(), kept.split([len(part) for part in sums]), strict=True):
            masks[name] = mask.clone(memory_format=torch.contiguous_format)
            view = _by_output(masks[name], groups.get(name, 0))
            view &= part.view(*view.shape[:2], 1, 1)
        still = trace(model, masks, example).live
        return {name: mask & (still[name] | ~live[name]) for name, mask in masks.items()}

    # Bisection is valid because removing one more channel never lowers the number of pruned weights. The rules of
    # `trace` combine supports by sums, products and thresholds of numbers that are not negative. So no support, forward
    # or backward, rises when a mask loses a weight, and the live weights become a subset. Pruned are the weights of the
    # removed channels, and those that were live and no longer are; both sets only grow. In a network with a function
    # that breaks this (dilated maximum pooling, followed along one of its candidates), the result still prunes enough
    # weights, and one channel fewer prunes too few.
    def pruned(count: int) -> int:
        return sum(int((~mask).sum()) for mask in removed(count).values())

    total = sum(score.numel() for score in scores.values())
    count = bisect_left(range(removable + 1), least, key=pruned)
    if count > removable:
        most = pruned(removable)
        raise RequestError(
            f"sparsity = {least / total:.4g} with pattern = 'channel': removing all {removable} channels that are not "
            f"outputs of the network prunes {most} of {total} weights (at most {most * 10**4 // total / 10**4:g})"
        )
    return removed(count)


def _by_output(weight: Tensor, transposed: int) -> Tensor:
    """Return [groups, outputs, inputs, kernel positions] of a weight: a view if it is contiguous."""
    if transposed:
        return weight.reshape(transposed, len(weight) // transposed, weight.shape[1], -1).transpose(1, 2)
    return weight.reshape(1, *weight.shape[:2], -1)


class _Separate(Intercept):
    """Stop gradients at the input of every linear map, so that they reach only those next to the output."""

    maps = (*LINEAR_MAPS, *TRANSPOSED)

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        return function(inputs.detach(), weight, bias, **options)

    def untracked(
        self, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        return function(inputs.detach(), weight, bias, **options)


def _layers_at_output(model: nn.Module, example: Tensor) -> set[str]:
    """Return the layers that feed the network's output through no further layer, such as the classifier."""
    weights = prunable(model)
    dtype = next(iter(weights.values())).dtype
    with preserved(model), torch.enable_grad():
        for weight in weights.values():
            weight.requires_grad_()
        inputs = example[:1].to(dtype) if example.is_floating_point() else example[:1]
        with _Separate(weights):
            output = model.eval()(inputs)
        found = torch.autograd.grad(output.sum(), list(weights.values()), allow_unused=True)
    return {name for name, gradient in zip(weights, found, strict=True) if gradient is not None}
