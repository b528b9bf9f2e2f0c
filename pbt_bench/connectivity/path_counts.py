"""The number of paths of kept weights from the inputs to the outputs of a network.

The network is unrolled: a unit is a channel at one position (a pixel, a token) of one example. The paths to a unit are
counted from the units before it:

- A linear map: the sum over its kept weights of the paths to the unit that the weight multiplies. A kernel position
  counts as a weight of its own. A weight that is not prunable, such as that of an excluded classifier, counts as kept.
- A sum or a concatenation: the paths to its terms, so the paths through shortcuts count.
- A pooling, a mean or a maximum: the paths to all units of the window.
- A product: the paths to each of its factors. A matrix product of activations is a sum of products.
- Attention: two matrix products, of queries and keys and of their result and the values. Therefore a path leads
  through queries, keys or values.
- A normalisation or an activation function passes each unit on.
- Biases, learned tokens and positions are constants: no path starts at them.
- The result of an unknown function has the paths to all its arguments; a note on stderr names the function.

The network is run once on an example of ones, in float64, with the masks as weights and zeros as all other parameters.
Powers of two are taken out of every tensor, so that no depth overflows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pbt_bench.connectivity.support_rules import (
    BILINEAR,
    COMBINES,
    CREATES,
    MOVES,
    NONNEGATIVE,
    PASSED,
    PRODUCTS,
    REDUCED,
    reduced,
)
from pbt_bench.connectivity.torch_calls import changed, in_place, names, plain_name, tensors
from pbt_bench.errors import note_once
from pbt_bench.linear_maps import LINEAR_MAPS, TRANSPOSED, Intercept, swapped
from pbt_bench.models.model_state import preserved
from pbt_bench.models.prunable import Masks, output_of

_MOST_BINARY_ORDERS = 256  # binary orders of magnitude between the largest count of a tensor and 1
_CONVERTS = names("to type type_as float double bfloat16 half")
_WITHOUT_GRADIENT = torch._C._set_grad_enabled


def log10_paths(model: nn.Module, masks: Masks, example: Tensor) -> float | None:
    """Return log10 of the number of paths from the inputs to the outputs for one example of the shape of `example[:1]`.

    The result is -inf for a network without a path, and None for a network whose inputs are not real numbers.
    """
    if not example.is_floating_point():
        return None
    weights = {name: mask.double() for name, mask in masks.items()}
    state: dict[str, Tensor] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        floating = tensor.is_floating_point()
        state[name] = torch.zeros_like(tensor, dtype=torch.float64) if floating else tensor
    counts = _Counts(weights)
    start = _marked(torch.ones_like(example[:1], dtype=torch.float64), 0)
    with preserved(model), _without_fused_attention(), torch.no_grad():
        model.eval()
        with counts:
            output = output_of(model, lambda: functional_call(model, state | weights, (start,)), example[:1], "example")
    total = float(output.sum()) if _counted(output) else 0.0
    return math.log10(total) + _exponent(output) * math.log10(2) if total else -math.inf


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Let attention modules call functions that a mode can intercept; without gradients they use a fused one."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


class _Counts(Intercept):
    """Run a network on counts: a tensor with the attribute `_exponent` = e stands for 2^e times its entries."""

    maps = (*LINEAR_MAPS, *TRANSPOSED)

    def __init__(self, tracked: Mapping[str, Tensor]) -> None:
        super().__init__(tracked)
        self._in_attention = False  # its maps take plain numbers, with a common exponent
        for weight in tracked.values():
            weight._weight = True  # type: ignore[attr-defined]

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        result = function(inputs, weight, None, **options)
        if self._in_attention:
            return result
        return _near_one(result, _exponent(inputs)) if _counted(inputs) else torch.zeros_like(result)

    def untracked(
        self, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        return self.apply("", function, inputs, weight if _of_mask(weight) else torch.ones_like(weight), bias, options)

    def multi_head_attention(self, given: dict[str, Any]) -> tuple[Tensor, None]:
        operands = ("query", "key", "value")
        counts, exponent = _aligned([given[name] for name in operands])
        self._in_attention = True
        result, _ = super().multi_head_attention(given | dict(zip(operands, counts, strict=True)))
        self._in_attention = False
        return _near_one(result, exponent), None

    def mix(self, query: Tensor, key: Tensor, value: Tensor, given: Mapping[str, Any]) -> tuple[Tensor, None]:
        heads = [swapped(t).unflatten(-1, (given["num_heads"], -1)).transpose(-3, -2) for t in (query, key, value)]
        return swapped(_attended(*heads).transpose(-3, -2).flatten(-2)), None

    def other(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if function is _WITHOUT_GRADIENT:
            return None
        given = (args, list(options.values()))
        name = plain_name(function)
        if not any(map(_counted, tensors(given))):
            return _constant(function, args, options)
        if name == "setitem":
            return _set_counts(*args)
        aligned, exponent = _aligned((args, options))
        result = _result(function, name, *aligned)
        if name in CREATES:
            return result
        if name == "iter":
            return iter([_near_one(t, exponent) for t in result])
        if in_place(function):
            return _marked(args[0].copy_(result), exponent)
        return changed(result, lambda t: _near_one(t, exponent) if t.is_floating_point() else t)


def _result(function: Callable[..., Any], name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Return the number of paths of a function's result."""
    operands = [*args, *(options[key] for key in ("input", "other", "value", "exponent") if key in options)]
    floats = [t for t in operands if isinstance(t, Tensor) and t.is_floating_point()]
    active = [t for t in tensors((args, list(options.values()))) if _counted(t)]
    if name in CREATES:
        return changed(function(*args, **options), torch.zeros_like)
    if name in PASSED or name in _CONVERTS:
        return active[0].clone()
    if name == "copy":
        return operands[1].expand(operands[0].shape)
    if name in PRODUCTS | BILINEAR and any(map(_of_mask, floats)):
        return function(*args, **options)
    if name in COMBINES or (name in ("max", "min") and len(floats) > 1):
        return reduce(add, (t if _counted(t) else torch.zeros_like(t) for t in floats))
    if name in REDUCED:
        return reduced(function, name, args, options)
    if "_pool" in name and not name.startswith("lp") and not options.get("return_indices"):
        return _pooled(function, name, args, options)
    if name in ("mean", "nanmean"):
        found = function(*args, **options)
        return found * (active[0].numel() / found.numel())
    if name in BILINEAR and not name.startswith(("add", "badd", "bilinear")):
        return reduce(add, (function(*changed(args, partial(_alone, own)), **options) for own in active))
    if name == "scaled_dot_product_attention":
        return _attended(*floats[:3])
    result = function(*args, **options)
    if name in MOVES or name in NONNEGATIVE or not any(t.is_floating_point() for t in tensors(result)):
        return result
    label = getattr(function, "__name__", str(function))
    note_once(
        f"number of paths: {label!r} is not a function whose paths are known; each number that it gives "
        "is taken to have the paths to all that it is given"
    )
    total = sum(t.sum() for t in active)
    return changed(result, lambda t: total * torch.ones_like(t, dtype=torch.float64) if t.is_floating_point() else t)


def _alone(own: Tensor, factor: Tensor) -> Tensor:
    """Replace every factor of a product but `own` by ones."""
    return factor if factor is own else torch.ones_like(factor)


def _constant(function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Return the result of a function of constants and weights: zeros, or the weights where they are only moved."""
    weights = [t for t in tensors((args, list(options.values()))) if _of_mask(t)]
    if weights:
        result = function(*args, **options) if plain_name(function) in MOVES else weights[0]
        for t in tensors(result):
            t._weight = True  # type: ignore[attr-defined]
        return result
    result = function(*args, **options)
    if in_place(function):
        return result
    return changed(result, lambda t: torch.zeros_like(t, dtype=torch.float64) if t.is_floating_point() else t)


def _set_counts(target: Tensor, index: Any, value: Any) -> None:
    (target_counts, value), exponent = _aligned((target, value))
    target.copy_(target_counts)
    target[index] = value if isinstance(value, Tensor) and _counted(value) else 0.0
    _marked(target, exponent)


def _pooled(function: Callable[..., Any], name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    """Sum over the windows of a maximum or average pooling."""
    adaptive = name.startswith("adaptive")
    order = ("input", "output_size") if adaptive else ("input", "kernel_size", "stride", "padding")
    order = (*order, "dilation") if "max" in name and not adaptive else order
    given = dict(zip(order, args, strict=False)) | options
    counts: Tensor = given["input"]
    dims = int(name[-2])
    shape = function(*args, **options).shape[-dims:]

    def along(key: str, default: Any) -> tuple[int, ...]:
        value = given.get(key)
        value = default if value is None or value == [] else value
        return (value,) * dims if isinstance(value, int) else tuple(value) * (dims // len(value))

    for dim, outputs in enumerate(shape):
        inputs = counts.shape[dim - dims]
        window = torch.zeros(outputs, inputs, dtype=counts.dtype, device=counts.device)
        for output in range(outputs):
            if adaptive:
                members = range(output * inputs // outputs, -(-(output + 1) * inputs // outputs))
            else:
                kernel = along("kernel_size", 1)
                first = output * along("stride", kernel)[dim] - along("padding", 0)[dim]
                step = along("dilation", 1)[dim]
                members = range(first, first + step * kernel[dim], step)
            window[output, [member for member in members if 0 <= member < inputs]] = 1
        counts = torch.tensordot(counts, window, ([counts.dim() + dim - dims], [1])).movedim(-1, dim - dims)
    return counts


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the paths of attention [..., tokens, features]: of queries and keys, then of their products and values."""
    chosen = query.sum(-1, keepdim=True) + key.sum(-1).unsqueeze(-2)
    return chosen.sum(-1, keepdim=True) + value.sum(-2, keepdim=True)


def _counted(value: object) -> bool:
    return hasattr(value, "_exponent")


def _of_mask(value: object) -> bool:
    return hasattr(value, "_weight")


def _exponent(tensor: Tensor) -> int:
    return getattr(tensor, "_exponent", 0)


def _marked(tensor: Tensor, exponent: int) -> Tensor:
    tensor._exponent = exponent  # type: ignore[attr-defined]
    return tensor


def _aligned(value: Any) -> tuple[Any, int]:
    """Return nested arguments whose counts have a common exponent, and that exponent."""
    found = list(tensors([list(v.values()) if isinstance(v, Mapping) else v for v in value]))
    exponent = max((_exponent(t) for t in found if _counted(t)), default=0)

    def aligned(t: Tensor) -> Tensor:
        if not _counted(t) or _exponent(t) == exponent:
            return t
        return _marked(t * 2.0 ** max(_exponent(t) - exponent, -1074), exponent)

    return changed(value, aligned), exponent


def _near_one(counts: Tensor, exponent: int) -> Tensor:
    """Mark counts with their exponent, and take a power of two out of large counts."""
    largest = float(counts.max()) if counts.numel() else 0.0
    if largest == 0 or abs(math.log2(largest)) < _MOST_BINARY_ORDERS:
        return _marked(counts, exponent)
    shift = math.floor(math.log2(largest))
    return _marked(counts * 2.0**-shift, exponent + shift)
