"""Supports: tensors of the numbers 0, 1 and `DEPENDS`.

0 is the number zero, 1 another constant, and `DEPENDS` a value that depends on the network's input.
No number is negative, so nothing cancels. Sums of constants stay below `THRESHOLD`, and means of values that depend
on the input stay above it; `level` separates the two again, in both directions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

DEPENDS = 2.0**60
THRESHOLD = 2.0**30


class Marked:
    """A set of tensors by identity; holding them keeps every identity unique."""

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        self._held = {id(t): t for t in tensors}

    def add(self, tensor: Tensor) -> None:
        """Mark a tensor."""
        self._held[id(tensor)] = tensor

    def __contains__(self, tensor: object) -> bool:
        return id(tensor) in self._held


class _Level(torch.autograd.Function):
    """0, 1 or DEPENDS again; backwards 1 where a gradient reaches what depends on the input, else 0."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, constant: bool) -> Tensor:
        depends = values >= THRESHOLD
        ctx.save_for_backward(depends)
        return torch.where(depends, DEPENDS, values.new_ones(()) if constant else values.sign())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        (depends,) = ctx.saved_tensors
        onward: Tensor = ((gradient > 0) & depends).to(gradient.dtype)
        return onward, None


def level(values: Tensor, constant: bool = False) -> Tensor:
    """Return the supports of `values`, which are sums of supports; `constant` adds a constant to each."""
    result: Tensor = _Level.apply(values, constant)
    return result


def support(value: Any) -> Any:
    """Return the support of an operand: a constant other than zero becomes 1."""
    if isinstance(value, Tensor):
        return value if value.requires_grad else (value != 0).float()
    return float(value != 0)
