"""Memory formats of activations [n, c, ...], and operations on channels that keep the format.

The `batch-last` format is [..., c, n] in memory: the examples of a batch are adjacent, as sparse_convolution.py needs
them. PyTorch treats such a tensor as a permuted view, on which most operators are slow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pbt_bench.sparse import kernels, sparse_convolution

Order = tuple[int, ...]  # of dimensions, from the outermost in memory to the innermost


def batch_last(dims: int) -> Order:
    """Return the order [..., c, n]."""
    return (*range(2, dims), 1, 0)


def channels_last(dims: int) -> Order:
    """Return the order [n, ..., c], PyTorch's channels_last for two spatial dimensions."""
    return (0, *range(2, dims), 1)


def order(x: Tensor) -> Order:
    """Return the memory order of `x`: contiguous, channels-last or batch-last; contiguous if it is none of them."""
    dims = x.dim()
    plain = tuple(range(dims))
    return next((o for o in (plain, channels_last(dims), batch_last(dims)) if _has(x, o)), plain)


def is_batch_last(x: Tensor) -> bool:
    """Return whether the order of `x` is batch-last and no other."""
    return x.dim() > 2 and order(x) == batch_last(x.dim())


def _has(x: Tensor, wanted: Order) -> bool:
    return x.permute(wanted).is_contiguous()


def empty(shape: torch.Size, like: Tensor) -> Tensor:
    """Return an uninitialised tensor in the memory order of `like`."""
    return sparse_convolution.empty_in_order(shape, order(like), like)


def select(x: Tensor, index: Tensor) -> Tensor:
    """Select the channels `index`, keeping the memory order of `x` (which indexing would lose)."""
    return _inverse(_rows(x, order(x)).index_select(1, index), x, len(index))


def put(into: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Replace the channels `index` of `into`, in place."""
    if order(values) == (here := order(into)):
        _rows(into, here).index_copy_(1, index, _rows(values, here))
        return into
    return into.index_copy_(1, index, values)


def _rows(x: Tensor, here: Order) -> Tensor:
    """Return a view [dimensions outside of c, c, dimensions inside of c] of a tensor in its memory order."""
    channels = here.index(1)
    physical = x.permute(here)
    outer, inner = physical.shape[:channels].numel(), physical.shape[channels + 1 :].numel()
    return physical.reshape(outer, x.shape[1], inner)


def _inverse(rows: Tensor, like: Tensor, channels: int) -> Tensor:
    here = order(like)
    shape = [channels if dim == 1 else like.shape[dim] for dim in here]
    back = sorted(range(len(here)), key=here.__getitem__)
    return rows.view(shape).permute(back)


def by_rows(function: Callable[..., Tensor], x: Tensor, *args: Any) -> Tensor:
    """Apply a normalisation of channels; batch-last memory is passed as [positions, c, n]."""
    if not is_batch_last(x):
        return function(x, *args)
    return _inverse(function(_rows(x, order(x)), *args), x, x.shape[1])


def by_images(function: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Apply a pooling of planes; batch-last memory is passed as one channels-last image of c · n channels."""
    if x.dim() != 4 or not is_batch_last(x):
        return function(x, *args, **kwargs)
    n, channels, height, width = x.shape
    image = x.permute(2, 3, 1, 0).reshape(1, height, width, channels * n).permute(0, 3, 1, 2)
    found = function(image, *args, **kwargs).permute(0, 2, 3, 1)
    return found.reshape(*found.shape[1:3], channels, n).permute(3, 2, 0, 1)


def move(x: Tensor, to: Order) -> Tensor:
    """Return `x` in another memory order; its gradient is returned in the order of `x`."""
    return x if _has(x, to) else _Move.apply(x, to)


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, to: Order) -> Tensor:
        ctx.back = order(x)
        return _moved(x, to)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _moved(gradient, ctx.back), None


def _moved(x: Tensor, to: Order) -> Tensor:
    if _has(x, to):
        return x
    out = sparse_convolution.empty_in_order(x.shape, to, x)
    pair = {batch_last(x.dim()), channels_last(x.dim())}
    if {order(x), to} == pair and kernels.takes(x):
        batch, rest = x.shape[0], x.shape[1:].numel()
        sparse_convolution.transpose(out, x, *((batch, rest) if to == batch_last(x.dim()) else (rest, batch)))
        return out
    return out.copy_(x)
