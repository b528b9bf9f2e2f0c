"""Live weights: kept weights on a path from input to output, found by one forward and backward pass.

The rules by which a value depends on the input, and a kept weight is live:

- A linear map (convolution, transposed convolution, linear layer) gives a value that depends on the input if some kept
  weight multiplies a value that does. That weight is live if the output depends on the result.
- A sum depends on each of its terms, a maximum on all its candidates, and an elementwise function on its argument.
- A product depends on a factor unless the other one is zero. A gate without kept weights is a constant, such as the
  sigmoid of its bias, and lets the other factor pass; without a bias it may be zero, and then nothing passes.
- Biases, normalisation shifts, learned tokens and positions are constants: no path starts at them, so weights that only
  they feed are not live. Every parameter that is not pruned counts as not zero, as it will be after training.
- Normalisation passes each unit through; that its statistics mix units is not a path.
- In attention every token depends on the values of all tokens; queries and keys count where a value depends on the
  input.
- The result of an unknown function depends on all its arguments; a note on stderr names the function.

The network is run on supports (see supports.py) instead of numbers: a kept weight is 1, a pruned one 0, the input
`DEPENDS`. Then an activation is at least `THRESHOLD` if and only if it depends on the input, and, backwards, a gradient
is positive if and only if the output depends on the activation. All numbers are sums of products that are not negative,
mapped to supports again after every layer, so nothing cancels, and no depth overflows or vanishes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from pbt_bench.connectivity.support_rules import PRODUCTS, SOFTMAX, moves, result_of
from pbt_bench.connectivity.supports import DEPENDS, THRESHOLD, Marked, level, support
from pbt_bench.connectivity.torch_calls import changed, in_place, plain_name, tensors
from pbt_bench.linear_maps import LINEAR_MAPS, TRANSPOSED, Intercept, swapped
from pbt_bench.models.model_state import preserved
from pbt_bench.models.prunable import Masks, output_of

_MATRIX_PRODUCTS = ("matmul", "bmm", "einsum")


class _Paths(Intercept):
    """Run a network on supports; `start` is the support of its input, a number."""

    maps = (*LINEAR_MAPS, *TRANSPOSED)

    def __init__(self, tracked: Mapping[str, Tensor], start: Tensor) -> None:
        super().__init__(tracked)
        self.flops_dense = dict.fromkeys(tracked, 0)
        self.flops_sparse = dict.fromkeys(tracked, 0)
        self.other_flops = 0
        self._start = start
        self._weights = Marked(tracked.values())  # and tensors computed from weights alone: zeros stay zero
        self._indices = Marked()  # integers that depend on the input
        self._shares = Marked()  # of a softmax: they sum to 1, so choosing among equal constants changes nothing

    def input(self, example: Tensor) -> Tensor:
        """Return the network's input that replaces `example`."""
        if example.is_floating_point():
            return self._starting(example)
        self._indices.add(example)
        return example

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        result: Tensor = function(support(inputs), weight, None, **options)
        positions = _positions(function, inputs, weight, result)
        self.flops_dense[name] += 2 * weight.numel() * positions
        self.flops_sparse[name] += 2 * int(weight.count_nonzero()) * positions
        return level(result, bias is not None)

    def untracked(
        self, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        if not weight.requires_grad:
            weight = torch.ones_like(weight)
        result = function(support(inputs), weight, None, **options)
        self.other_flops += 2 * weight.numel() * _positions(function, inputs, weight, result)
        return level(result, bias is not None)

    def other(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if function is torch._C._set_grad_enabled:  # frozen layers connect input and output as well
            return None
        given = list(tensors((args, list(options.values()))))
        supports = [t for t in given if t.requires_grad]
        chosen = any(t in self._indices for t in given)
        if function is F.embedding and chosen:
            return self._embedding(function, args, options)
        if not supports:
            result = function(*args, **options)
            return changed(result, self._chosen) if chosen else result
        if function is F.scaled_dot_product_attention:
            query, key, value = (args + tuple(options[n] for n in ("query", "key", "value") if n in options))[:3]
            return _attention(*map(support, (query, key, value)))
        name = plain_name(function)
        if name in _MATRIX_PRODUCTS and any(t in self._shares for t in given):
            shared = [changed(value, self._varying) for value in (args, options)]
            result = level(function(*shared[0], **shared[1]), constant=True)
        else:
            if chosen and name in PRODUCTS:
                args = changed(args, self._factor)
            result = result_of(function, args, options)
        if all(t in self._weights for t in supports):
            for t in tensors(result):
                self._weights.add(t)
        elif not moves(function):
            result = changed(result, lambda t: level(t) if t.is_floating_point() and t.requires_grad else t)
        for t in tensors(result):
            if not t.is_floating_point():
                self._indices.add(t)
            elif name in SOFTMAX:
                self._shares.add(t)
        if in_place(function) and isinstance(result, Tensor) and result is not args[0]:
            return args[0].copy_(result)
        return result

    def _starting(self, like: Tensor) -> Tensor:
        """Return numbers that depend on the input, in the shape of `like`."""
        return self._start.expand(like.shape).clone()

    def _chosen(self, result: Tensor) -> Tensor:
        """Return the result of a function of indices that depend on the input."""
        if result.is_floating_point():
            return self._starting(result)
        self._indices.add(result)
        return result

    def _factor(self, t: Tensor) -> Tensor:
        """Return indices as the factor of a product; a truth value selects, which is no path."""
        if t in self._indices:
            return t.new_ones(()) if t.dtype == torch.bool else self._starting(t)
        return t

    def _embedding(self, function: Callable[..., Tensor], args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
        """Look up rows: any row may be selected, so an entry depends on the kept weights of its column."""
        table: Tensor = args[1] if len(args) > 1 else options["weight"]
        shape = function(*changed(args, Tensor.detach), **changed(options, Tensor.detach)).shape
        columns = table.sum(0) if table.requires_grad else torch.ones_like(table[0])
        return level((self._start * columns).expand(shape))

    def _varying(self, value: Tensor) -> Tensor:
        return value if value in self._shares else _varying(value)

    def mix(self, query: Tensor, key: Tensor, value: Tensor, given: Mapping[str, Any]) -> tuple[Tensor, None]:
        if given["bias_v"] is not None:  # one more value, a constant
            value = torch.cat([value, torch.ones_like(value[:1])])
        heads = [swapped(t).unflatten(-1, (given["num_heads"], -1)).transpose(-3, -2) for t in (query, key, value)]
        return swapped(_attention(*heads).transpose(-3, -2).flatten(-2)), None


def _varying(value: Tensor) -> Tensor:
    """Remove the constants that are equal for every token (biases, but not learned values)."""
    return value * (value >= THRESHOLD) if value.requires_grad else support(value)


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return attention [..., tokens, features]: queries and keys count where a value varies between tokens."""
    chooses = level(query.sum((-2, -1), keepdim=True) + key.sum((-2, -1), keepdim=True), constant=True)
    values = value.sum(-2, keepdim=True)
    seen = level(_varying(values) * chooses + (values > 0))
    return seen.expand(*query.shape[:-1], value.shape[-1]).clone()


def _positions(function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, result: Tensor) -> int:
    """Return how often a linear map uses each weight on one example."""
    side = inputs if function in TRANSPOSED else result
    return side.numel() // side.shape[-1 if function is F.linear else 1 - weight.dim()]


@dataclass(frozen=True)
class Trace:
    """Live weights of a masked network, and the forward flops per example of its linear maps."""

    live: Masks  # kept weights on at least one path from an input to an output
    connected: bool  # at least one output is reached from an input
    flops_dense: dict[str, int]  # of each weight tensor
    flops_sparse: dict[str, int]  # and of its kept weights
    other_flops: int  # of linear maps that are not prunable


def trace(model: nn.Module, masks: Masks, example: Tensor) -> Trace:
    """Propagate supports through `model` for one example of the shape of `example[:1]`."""
    kept = {name: mask.float().requires_grad_() for name, mask in masks.items()}
    state: dict[str, Tensor] = {}
    for name, t in (*model.named_parameters(), *model.named_buffers()):
        state[name] = t.detach().float() if t.is_floating_point() else t
    for name, t in model.named_parameters():
        if name not in kept and t.is_floating_point():
            state[name] = state[name] + (state[name] == 0)
    start = torch.tensor(DEPENDS, dtype=torch.float32, device=example.device, requires_grad=True)
    paths = _Paths(kept, start)
    grad: AbstractContextManager[Any] = torch.enable_grad()
    with preserved(model), grad:
        model.eval()
        inputs = paths.input(example[:1])
        with paths:
            output = output_of(model, lambda: functional_call(model, state | kept, (inputs,)), example[:1], "example")
        found: tuple[Tensor, ...] = tuple(torch.zeros_like(t) for t in (*kept.values(), start))
        if output.requires_grad:
            tracked = [*kept.values(), start]
            found = torch.autograd.grad(output.sum(), tracked, allow_unused=True, materialize_grads=True)
    live = {name: (grad >= THRESHOLD) & masks[name] for (name, grad) in zip(kept, found, strict=False)}
    return Trace(live, bool(found[-1] > 0), paths.flops_dense, paths.flops_sparse, paths.other_flops)
