"""Masks from scores: exact counts for every scope, whatever the ties.

Kept weights = N - floor(sparsity · N), N the prunable weights. Equal scores are pruned in the order of the
weights (layer by layer, row-major), so a mask is a function of the scores alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_FLOOR, Decimal
from math import floor, prod

import torch
from torch import Tensor, nn

from pbt_bench.errors import RequestError
from pbt_bench.models.prunable import Masks, check_network


def pruned_count(sparsity: float, prunable: int) -> int:
    """Return floor(sparsity · prunable), the sparsity taken as the decimal number that is printed: 0.7 of 10 is 7."""
    return int((_decimal(sparsity) * prunable).to_integral_value(ROUND_FLOOR))


def exact_density(sparsity: float) -> float:
    """Return 1 - sparsity in decimal arithmetic: 0.2 for 0.8, not 0.19999999999999996."""
    return float(1 - _decimal(sparsity))


def _decimal(sparsity: float) -> Decimal:
    return Decimal(repr(float(sparsity)))


class Ranking:
    """Masks from scores, which are sorted for several sparsities or, with `once`, searched for one threshold."""

    def __init__(self, scores: Mapping[str, Tensor], scope: str, once: bool = False) -> None:
        self._scores = dict(scores)
        self._scope = scope
        flat = [score.flatten() for score in scores.values()]
        self._parts = [torch.cat(flat)] if scope == "global" else flat
        search = once and not self._parts[0].is_cuda  # on a GPU, kthvalue is not deterministic
        self._sorted = None if search else [part.sort().values for part in self._parts]

    def masks(self, sparsity: float) -> Masks:
        """Return masks that keep N - floor(sparsity · N) weights in all."""
        total = sum(s.numel() for s in self._scores.values())
        return self.keep(total - pruned_count(sparsity, total), exact_density(sparsity))

    def keep(self, kept: int, density: float, alive: Mapping[str, int] | None = None) -> Masks:
        """Return masks that keep `kept` weights in all and at most `alive` per layer."""
        if self._scope == "global":
            parts = self._highest(0, kept).split([s.numel() for s in self._scores.values()])
        else:
            shapes = {name: tuple(s.shape) for name, s in self._scores.items()}
            quota = quotas(shapes, kept, density, self._scope, alive)
            parts = tuple(self._highest(index, quota[name]) for index, name in enumerate(self._scores))
        return {name: part.view(s.shape) for (name, s), part in zip(self._scores.items(), parts, strict=True)}

    def _highest(self, index: int, kept: int) -> Tensor:
        """Return a flat mask of the `kept` highest scores of a part; of equal scores, the first are pruned."""
        scores = self._parts[index]
        pruned = scores.numel() - kept
        if pruned == 0:
            return torch.ones_like(scores, dtype=torch.bool)
        threshold = self._sorted[index][pruned - 1] if self._sorted else scores.kthvalue(pruned).values
        mask = scores > threshold
        if missing := kept - int(mask.count_nonzero()):
            mask[(scores == threshold).nonzero().flatten()[-missing:]] = True
        return mask


def quotas(
    shapes: Mapping[str, tuple[int, ...]],
    kept: int,
    density: float,
    scope: str,
    alive: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return how many weights every layer keeps, `kept` in all.

    layer    the same density everywhere;
    uniform  the first layer dense, the same density everywhere else (Evci et al. 2020, arXiv:1911.11134, Sec. 3);
    erk      density proportional to (sum of dimensions) / (product of dimensions), layers that would exceed 1
             dense (Erdős-Rényi-Kernel, same section).

    The real-valued shares are rounded by largest remainders. Raises RequestError if `uniform` has too few weights.
    """
    limit = {name: prod(shape) for name, shape in shapes.items()} if alive is None else dict(alive)
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    if scope == "layer":
        weight = {name: float(sizes[name]) for name in sizes}
    elif scope == "erk":
        weight = {name: float(sum(shape)) for name, shape in shapes.items()}
    elif scope == "uniform":
        first = next(iter(sizes))
        if kept < limit[first]:
            raise RequestError(
                f"scope = 'uniform' keeps the first layer ({first}, {limit[first]} weights) dense, "
                f"but density {density:g} leaves {kept} weights in all"
            )
        rest = {name: float(size) for name, size in sizes.items() if name != first}
        shares = _shares(rest, {name: limit[name] for name in rest}, kept - limit[first])
        return {first: limit[first], **shares}
    else:
        raise RequestError(f"scope = {scope!r} has no quotas")
    return _shares(weight, limit, kept)


def _shares(weight: Mapping[str, float], limit: Mapping[str, int], kept: int) -> dict[str, int]:
    """Return integers proportional to `weight`, none above its limit, that sum to `kept` (largest remainders)."""
    full: dict[str, int] = {}
    while True:
        free = {name: w for name, w in weight.items() if name not in full}
        left = kept - sum(full.values())
        scale = left / sum(free.values()) if free else 0.0
        over = [name for name, w in free.items() if w * scale > limit[name]]
        if not over:
            break
        full |= {name: limit[name] for name in over}
    ideal = {name: w * scale for name, w in free.items()}
    result = full | {name: floor(share) for name, share in ideal.items()}
    missing = kept - sum(result.values())
    by_remainder = sorted(free, key=lambda name: floor(ideal[name]) - ideal[name])  # stable: ties in layer order
    for name in (n for n in by_remainder if result[n] < limit[n]):
        if missing <= 0:
            break
        result[name] += 1
        missing -= 1
    return {name: result[name] for name in weight}


def check_masks(masks: Mapping[str, Tensor], model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that `masks` belong to.

    Raises RequestError unless they are bool tensors by the names of parameters of `model`, each of its shape.
    """
    check_network(model)
    if not isinstance(masks, Mapping):
        raise RequestError(f"masks are {type(masks).__name__}, not a mapping from parameter names to bool tensors")
    parameters = dict(model.named_parameters())
    if odd := sorted(map(str, masks.keys() - parameters.keys())):
        raise RequestError(f"masks and parameters of {type(model).__name__} differ: {', '.join(odd)}")
    for name, mask in masks.items():
        shape = list(parameters[name].shape)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or list(mask.shape) != shape:
            found = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise RequestError(f"mask of {name}: {found}, expected torch.bool {shape}")
    return {name: parameters[name] for name in masks}
