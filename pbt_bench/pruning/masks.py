"""Masks from scores: exact counts for every scope, whatever the ties.

Kept weights = N - floor(sparsity · N), N the prunable weights. Equal scores are pruned in the order of the
weights (layer by layer, row-major), so a mask is a function of the scores alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import ROUND_FLOOR, Decimal
from math import floor, inf, nan, prod

import torch
from torch import Tensor, nn

from pbt_bench.errors import RequestError
from pbt_bench.models.prunable import Masks, check_network
from pbt_bench.pruning.plugins import scopes


def pruned_count(sparsity: float, prunable: int) -> int:
    """Return floor(sparsity · prunable), the sparsity taken as the decimal number that is printed: 0.7 of 10 is 7."""
    return int((_decimal(sparsity) * prunable).to_integral_value(ROUND_FLOOR))


def exact_density(sparsity: float) -> float:
    """Return 1 - sparsity in decimal arithmetic: 0.2 for 0.8, not 0.19999999999999996."""
    return float(1 - _decimal(sparsity))


def _decimal(sparsity: float) -> Decimal:
    return Decimal(repr(float(sparsity)))


class Ranking:
    """Masks from scores, which are sorted for several sparsities or, with `once`, searched for one threshold.

    Each tensor of `packed` is three layers: see `packed_projections`.
    """

    def __init__(
        self, scores: Mapping[str, Tensor], scope: str, once: bool = False, packed: Collection[str] = ()
    ) -> None:
        self._scores = dict(scores)
        self._scope, self._packed = scope, packed
        flat = [score.flatten() for score in self._layers(scores).values()]
        self._parts = [torch.cat(flat)] if scope == "global" else flat
        search = once and not self._parts[0].is_cuda  # on a GPU, kthvalue is not deterministic
        self._sorted = None if search else [part.sort().values for part in self._parts]

    def masks(self, sparsity: float) -> Masks:
        """Return masks that keep N - floor(sparsity · N) weights in all."""
        total = sum(s.numel() for s in self._scores.values())
        return self.keep(total - pruned_count(sparsity, total))

    def keep(self, kept: int, before: Masks | None = None) -> Masks:
        """Return masks that keep `kept` weights in all, and no more of a layer than the masks `before` keep."""
        if self._scope == "global":
            found = self._highest(0, kept)
        else:
            shapes = {name: tuple(layer.shape) for name, layer in self._layers(self._scores).items()}
            alive = {name: int(mask.count_nonzero()) for name, mask in self._layers(before or {}).items()}
            quota = quotas(shapes, kept, self._scope, alive)
            found = torch.cat([self._highest(index, quota[name]) for index, name in enumerate(shapes)])
        parts = found.split([s.numel() for s in self._scores.values()])
        return {name: part.view(s.shape) for (name, s), part in zip(self._scores.items(), parts, strict=True)}

    def _layers(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            f"{name}[{index}]" if name in self._packed else name: layer
            for name, tensor in tensors.items()
            for index, layer in enumerate(tensor.chunk(3) if name in self._packed else [tensor])
        }

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
    shapes: Mapping[str, tuple[int, ...]], kept: int, scope: str, alive: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return how many weights every layer keeps, `kept` in all and at most `alive` per layer.

    The shares that the scope returns are rounded by largest remainders. Raises RequestError if they are not a finite
    number for every layer that is not negative.
    """
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    function = scopes()[scope].function
    if function is None:
        raise RequestError(f"scope = {scope!r} has no shares of layers")
    shares = function(shapes, kept / sum(sizes.values()))
    weight = {name: float(shares[name] * size) if name in shares else nan for name, size in sizes.items()}
    for name, value in weight.items():
        if not 0 <= value < inf:
            raise RequestError(
                f"scope {scope!r}: share of {name!r} is {shares.get(name)!r}, not a number of at least 0"
            )
    return _shares(weight, dict(alive or sizes), kept)


def _shares(weight: Mapping[str, float], limit: Mapping[str, int], kept: int) -> dict[str, int]:
    """Return integers proportional to `weight`, none above its limit, that sum to `kept` (largest remainders)."""
    full: dict[str, int] = {}
    while True:
        free = {name: w for name, w in weight.items() if name not in full}
        left = kept - sum(full.values())
        if left and not any(free.values()):  # the shares leave nothing to scale: the same density in the other layers
            free = {name: float(limit[name]) for name in free}
        scale = left / sum(free.values()) if left else 0.0
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
    """Return the parameters that `masks` belong to, of a plain network: see `check_network` and `masked_parameters`."""
    check_network(model)
    return masked_parameters(masks, model)


def masked_parameters(masks: Mapping[str, Tensor], model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that `masks` belong to.

    Raises RequestError unless they are bool tensors by the names of parameters of `model`, each of its shape.
    """
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
