"""Which weights lie on a live path from input to output, and how often each is used: one forward and backward pass.

The network is run on supports instead of numbers: a kept weight is 1, a pruned one 0, and after every linear
map a positive activation becomes 1. Biases add nothing, normalisations and activations pass through, maximum
pooling becomes average pooling (a maximum is positive if and only if the mean is), and in attention every token sees
the values of all. Then an activation is 1 if
and only if some input reaches it through kept weights, and, backwards, a gradient is positive if and only if
it reaches the output. All values stay small integers, so no depth overflows or vanishes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from pbt_bench.pruning.intercept import Intercept
from pbt_bench.pruning.masks import Masks
from pbt_bench.pruning.preserve import preserved

_PASSED_THROUGH = """
    batch_norm layer_norm group_norm instance_norm local_response_norm rms_norm
    relu relu_ leaky_relu leaky_relu_ relu6 elu elu_ selu selu_ celu celu_ gelu silu mish hardswish hardtanh hardtanh_
    hardsigmoid softplus softsign tanh sigmoid logsigmoid prelu log_softmax
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout
"""
_IDENTITY = {
    getattr(place, name) for place in (F, torch, Tensor) for name in _PASSED_THROUGH.split() if hasattr(place, name)
}
_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}
_AVERAGE = {
    pool: average
    for dims, average in ((1, F.avg_pool1d), (2, F.avg_pool2d), (3, F.avg_pool3d))
    for pool in (getattr(F, f"max_pool{dims}d"), getattr(torch, f"max_pool{dims}d"))
}
_ADAPTIVE = {
    F.adaptive_max_pool1d: F.adaptive_avg_pool1d,
    F.adaptive_max_pool2d: F.adaptive_avg_pool2d,
    F.adaptive_max_pool3d: F.adaptive_avg_pool3d,
}


class _Support(torch.autograd.Function):
    """1 where positive, in both directions."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        support = values > 0
        ctx.save_for_backward(support)
        return support.to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        (support,) = ctx.saved_tensors
        onward: Tensor = ((gradient > 0) & support).to(gradient.dtype)
        return onward


class _Paths(Intercept):
    """Runs a network on supports."""

    def __init__(self, tracked: Mapping[str, Tensor]) -> None:
        super().__init__(tracked)
        self.positions: dict[str, int] = {}  # how often each weight of the tensor is used per example
        self.other_flops = 0

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        result: Tensor = function(inputs, weight, None, **options)
        self.positions[name] = self.positions.get(name, 0) + _positions(function, result)
        return _positive(result)

    def untracked(
        self, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        result = function(inputs, torch.ones_like(weight), None, **options)
        self.other_flops += 2 * weight.numel() * _positions(function, result)
        return _positive(result)

    def other(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if function is F.scaled_dot_product_attention:
            query, key, value = (args + tuple(options[n] for n in ("query", "key", "value") if n in options))[:3]
            return _attention(query, key, value)
        if function is F.multi_head_attention_forward:
            parameters = inspect.signature(function).parameters
            return self._multi_head(dict(zip(parameters, args, strict=False)) | options)
        if function in _SOFTMAX:  # positive everywhere, and it depends on its argument
            return (args[0] if args else options["input"]) + 1
        if function in _IDENTITY:
            return args[0] if args else options["input"]
        if function in _ADAPTIVE:
            return _ADAPTIVE[function](*args[:2])
        if function in _AVERAGE:
            names = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode")
            given = dict(zip(names, args, strict=False)) | options
            if all(d == 1 for d in _as_tuple(given.get("dilation", 1))):
                keep = {k: given[k] for k in names[:4] + names[5:] if k in given}
                return _AVERAGE[function](**keep)
        return function(*args, **options)

    def _multi_head(self, given: dict[str, Any]) -> tuple[Tensor, None]:
        """Attention [tokens, n, features] whose inner projections are not prunable: dense."""
        query, key, value = given["query"], given["key"], given["value"]
        features = given["embed_dim_to_check"]
        self.other_flops += 2 * features * sum(t.numel() for t in (query, key, value))
        inner = [_positive(t.sum(2, keepdim=True)).expand(*t.shape[:2], features) for t in (query, key, value)]
        mixed = _attention(*(t.transpose(0, 1) for t in inner)).transpose(0, 1)
        with self:
            return F.linear(mixed, given["out_proj_weight"]), None


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[..., tokens, features]: every token sees the values of all, and queries and keys matter where a value is."""
    seen = value.sum(-2, keepdim=True) * (1 + query.sum((-2, -1), keepdim=True) + key.sum((-2, -1), keepdim=True))
    return _positive(seen.expand(*query.shape[:-1], value.shape[-1]))


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _positive(values: Tensor) -> Tensor:
    result: Tensor = _Support.apply(values)
    return result


def _positions(function: Callable[..., Tensor], result: Tensor) -> int:
    """Output positions per example of a linear map on one example."""
    channels = result.shape[-1] if function is F.linear else result.shape[1]
    return result.numel() // channels


@dataclass(frozen=True)
class Trace:
    """What the support network says."""

    live: Masks  # kept weights on at least one path from an input to an output
    connected: bool  # at least one output is reached from an input
    positions: dict[str, int]  # uses of each weight per example
    other_flops: int  # forward flops per example of linear maps that are not prunable


def trace(model: nn.Module, masks: Masks, example: Tensor) -> Trace:
    """Propagate supports through `model` for one example of the shape of `example[:1]`."""
    kept = {name: mask.float().requires_grad_() for name, mask in masks.items()}
    dtype = torch.float32
    own = [*model.named_parameters(), *model.named_buffers()]
    state = {name: t.detach().to(dtype) if t.is_floating_point() else t for name, t in own} | kept
    ones = example[:1]
    if ones.is_floating_point():
        ones = torch.ones_like(ones, dtype=dtype).requires_grad_()
    paths = _Paths(kept)
    grad: AbstractContextManager[Any] = torch.enable_grad()
    with preserved(model), grad:
        model.eval()
        with paths:
            output = functional_call(model, state, (ones,))
        total = output.sum()
        start = [ones] if ones.is_floating_point() else []
        found: tuple[Tensor, ...] = tuple(torch.zeros_like(k) for k in (*kept.values(), *start))
        if total.requires_grad:
            found = torch.autograd.grad(total, [*kept.values(), *start], allow_unused=True, materialize_grads=True)
    live = {name: (grad > 0) & masks[name] for (name, grad) in zip(kept, found, strict=False)}
    connected = bool((found[-1] > 0).any()) if start else bool(total > 0)
    return Trace(live, connected, paths.positions, paths.other_flops)
