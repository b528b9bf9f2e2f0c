"""Convolutions and linear layers: their geometry, and a mode that intercepts them while a model runs.

A `TorchFunctionMode` sees `F.conv2d(x, w)` and `F.linear(x, w)` whether a module or plain code calls them. Weights are
recognised by tensor identity, so tied weights, functional models and reused modules are covered.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

CONVOLUTIONS: dict[Any, int] = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}  # function -> spatial dimensions
LINEAR_MAPS = (*CONVOLUTIONS, F.linear)
TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def rows_in(whole: Tensor, weight: Tensor) -> slice:
    """Return the rows of `whole` that `weight` is: all of them, or those of a part that `Intercept.apply` gets."""
    if weight is whole:
        return slice(None)
    first = (weight.storage_offset() - whole.storage_offset()) // weight.stride(0)
    return slice(first, first + len(weight))


class Intercept(TorchFunctionMode):
    """Call `apply(name, function, inputs, weight, bias, options)` in place of every linear map of a tracked weight.

    The query, key and value maps of an `nn.MultiheadAttention` are three linear maps. If one tensor packs their
    weights, `apply` gets its name and a third of its rows as `weight`.
    """

    maps: tuple[Any, ...] = LINEAR_MAPS

    def __init__(self, tracked: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {id(tensor): name for name, tensor in tracked.items()}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func in self.maps:
            inputs, weight, bias, options = split_call(args, options, func in TRANSPOSED)
            return self._mapped(self._names.get(id(weight)), func, inputs, weight, bias, options)
        if func is F.multi_head_attention_forward:
            call = inspect.signature(func).bind(*args, **options)
            call.apply_defaults()
            return self.multi_head_attention(call.arguments)
        return self.other(func, args, options)

    def _mapped(
        self, name: str | None, function: Any, inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        if name is None:
            return self.untracked(function, inputs, weight, bias, options)
        return self.apply(name, function, inputs, weight, bias, options)

    def multi_head_attention(self, given: dict[str, Any]) -> tuple[Tensor, Any]:
        """Compute `F.multi_head_attention_forward` of the arguments `given`.

        The function takes and returns [tokens, samples, features]; its linear maps are intercepted with samples first.
        """
        weights = [given[f"{letter}_proj_weight"] for letter in "qkv"]
        names = [self._names.get(id(weight)) for weight in weights]
        if not given["use_separate_proj_weight"]:
            weights = given["in_proj_weight"].chunk(3)
            names = [self._names.get(id(given["in_proj_weight"]))] * 3
        biases = (None,) * 3 if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)
        query, key, value = (
            swapped(self._mapped(name, F.linear, swapped(given[each]), weight, bias, {}))
            for each, name, weight, bias in zip(("query", "key", "value"), names, weights, biases, strict=True)
        )
        mixed, shares = self.mix(query, key, value, given)
        last, bias = given["out_proj_weight"], given["out_proj_bias"]
        return swapped(self._mapped(self._names.get(id(last)), F.linear, swapped(mixed), last, bias, {})), shares

    def mix(self, query: Tensor, key: Tensor, value: Tensor, given: Mapping[str, Any]) -> tuple[Tensor, Any]:
        """Return values mixed by attention, before the last linear map, and the second result of the function."""
        identity = torch.eye(query.shape[-1], dtype=query.dtype, device=query.device)  # products with it are exact
        weights = dict.fromkeys((*(f"{letter}_proj_weight" for letter in "qkv"), "out_proj_weight"), identity)
        inner = {"query": query, "key": key, "value": value, "use_separate_proj_weight": True, **weights}
        plain = {"in_proj_weight": None, "in_proj_bias": None, "out_proj_bias": None}
        result: tuple[Tensor, Any] = F.multi_head_attention_forward(**{**given, **inner, **plain})
        return result

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        """Compute the linear map of the tracked weight `name`."""
        raise NotImplementedError

    def untracked(
        self, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        """Compute the linear map of a weight that is not tracked."""
        return function(inputs, weight, bias, **options)

    def other(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Compute any other torch function."""
        return function(*args, **options)


def swapped(tensor: Tensor) -> Tensor:
    """Swap samples and tokens of a batch; `F.multi_head_attention_forward` takes [tokens, samples, features]."""
    return tensor.transpose(0, 1) if tensor.dim() == 3 else tensor


def split_call(
    args: tuple[Any, ...], options: Mapping[str, Any], transposed: bool = False
) -> tuple[Tensor, Tensor, Any, dict[str, Any]]:
    """Return (inputs, weight, bias, other options) of a call, whether arguments were positional or keywords."""
    rest = ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")
    names = ("input", "weight", "bias", "stride", "padding", *rest)
    given = dict(zip(names, args, strict=False)) | dict(options)
    return given.pop("input"), given.pop("weight"), given.pop("bias", None), given


def conv_geometry(options: Mapping[str, Any], weight: Tensor) -> tuple[list[int], list[int], list[int], int]:
    """Return (stride, padding, dilation, groups) of a convolution call, with one number per spatial dimension.

    Raises NotImplementedError for a `padding="same"` that pads the two sides differently.
    """
    dims = weight.dim() - 2

    def spread(value: Any) -> list[int]:
        return [int(value)] * dims if isinstance(value, int) else [int(v) for v in value] * (dims // len(value) or 1)

    stride, dilation = spread(options.get("stride", 1)), spread(options.get("dilation", 1))
    padding = options.get("padding", 0)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(t % 2 for t in total):
            raise NotImplementedError("asymmetric padding='same'")
        padding = [t // 2 for t in total]
    return stride, spread(padding), dilation, int(options.get("groups", 1))


def out_sizes(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """Return the spatial sizes of a convolution's output."""
    along = zip(sizes, kernel, stride, padding, dilation, strict=True)
    return [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in along]


def plain(inputs: Tensor, weight: Tensor, function: Any, options: Mapping[str, Any]) -> bool:
    """Return whether `linear_map` supports the call: a linear layer, or a convolution with symmetric padding."""
    if function is F.linear:
        return True
    try:
        conv_geometry(options, weight)
    except NotImplementedError:
        return False
    return inputs.dim() == weight.dim()


def patches(inputs: Tensor, weight: Tensor, options: Mapping[str, Any]) -> Tensor:
    """Return the patches that a convolution multiplies: [n, groups, (c/groups)·∏k, positions]."""
    stride, padding, dilation, groups = conv_geometry(options, weight)
    if any(padding):
        inputs = F.pad(inputs, [p for pad in reversed(padding) for p in (pad, pad)])
    kernel = list(weight.shape[2:])
    sizes = out_sizes(inputs.shape[2:], kernel, stride, [0] * len(kernel), dilation)
    n, channels, *_ = inputs.shape
    batch, channel, *spatial = inputs.stride()
    steps = [s * factor for factors in (dilation, stride) for s, factor in zip(spatial, factors, strict=True)]
    view = inputs.as_strided((n, channels, *kernel, *sizes), (batch, channel, *steps))
    columns = (channels // groups) * math.prod(kernel)
    return view.reshape(n, groups, columns, -1)


Sink = Callable[[Tensor, Tensor], None]


def linear_map(inputs: Tensor, weight: Tensor, bias: Any, function: Any, options: Any, sink: Sink) -> Tensor:
    """Compute a linear map whose backward pass calls `sink(inputs, output gradient)` instead of a weight gradient."""
    result: Tensor = _LinearMap.apply(inputs, weight, bias, function, options, sink)
    return result


class _LinearMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Any, function: Any, options: Any, sink: Any) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.function, ctx.options, ctx.sink = function, options, sink
        result: Tensor = function(inputs, weight, bias, **options)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        (gradient,) = gradients
        ctx.sink(inputs, gradient)
        onward = None
        if ctx.needs_input_grad[0]:
            if ctx.function is F.linear:
                onward = gradient @ weight
            else:
                onward = convolution_backward(gradient, inputs, weight, ctx.options, 0)
        return onward, None, None, None, None, None


def convolution_backward(gradient: Tensor, inputs: Tensor, weight: Tensor, options: Any, which: int) -> Tensor:
    """Return the gradient of a convolution with respect to its inputs (`which` = 0) or its weight (1)."""
    stride, padding, dilation, groups = conv_geometry(options, weight)
    geometry = stride, padding, dilation, False, [0] * len(stride), groups
    wanted = [which == 0, which == 1, False]
    found: Tensor = torch.ops.aten.convolution_backward(gradient, inputs, weight, None, *geometry, wanted)[which]
    return found
