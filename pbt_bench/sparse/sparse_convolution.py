"""Convolutions that multiply kept weights only, and their gradients, on a CPU; the kernels are in kernels/sparse.h.

    y[q, o, :] = Σ_k w_k · x[p(q, k), c_k, :]      over the kept weights k of output channel o
    δx         = the same sum with inputs and outputs exchanged
    δw_k       = Σ_q Σ_n δy[q, o_k, n] · x[p(q, k), c_k, n]

for activations [positions, channels, n] in memory. The cost is proportional to the number of kept weights, whatever the
pattern of the mask. Every sum has a fixed order, whatever the number of threads. Without compiled kernels
(`kernels.loaded()` is None) this module is not used.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pbt_bench.linear_maps import out_sizes
from pbt_bench.sparse import kernels, tuning

Ints = NDArray[np.signedinteger[Any]]
_FIELDS = ("base", "list", "kind", "first", "runs", "start", "offset", "slot", "pair")


class _Struct(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in _FIELDS),
        *((name, ctypes.c_int64) for name in ("positions", "pairs", "rows", "taps", "blocks")),
    )


def empty_in_order(shape: Sequence[int], order: Sequence[int], like: Tensor) -> Tensor:
    """Return an uninitialised tensor in a memory order; a batch of one example is outermost.

    For one example the memory is the same in both orders, but PyTorch 2.14's batch normalisation on a CPU computes a
    wrong gradient if the stride of a batch of one differs from that of a larger batch: see
    tests/sparse/test_compact_network.py.
    """
    if shape[0] == 1:
        order = (0, *(dim for dim in order if dim))
    return torch.empty_permuted(tuple(shape), tuple(order), dtype=like.dtype, device=like.device)


def transpose(to: Tensor, x: Tensor, rows: int, columns: int) -> None:
    """Write the memory of `x`, taken as a matrix [rows, columns], transposed into the memory of `to`."""
    kernels.call("transpose", x.dtype, (to, x), rows, columns, torch.get_num_threads())


@dataclass(frozen=True)
class _Side:
    """Along one dimension: how the positions of one side of a convolution map to those of the other side.

    Position a finds base[a] + offset[variant[a], t] by tap t, if `member[variant[a], t]` and `inside[a, t]`.
    """

    base: Ints  # [positions, 1]
    variant: Ints  # [positions, 1]
    inside: NDArray[np.bool_]  # [positions, taps]
    offset: Ints  # [variants, taps]
    member: NDArray[np.bool_]  # [variants, taps]


def _sides(size: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[_Side, _Side]:
    """Return the maps from outputs to inputs, and from inputs to outputs."""
    (count,) = out_sizes([size], [kernel], [stride], [padding], [dilation])
    step = dilation * np.arange(kernel)
    base = np.arange(count)[:, None] * stride - padding
    inside = (base + step >= 0) & (base + step < size)
    every = np.ones((1, kernel), dtype=bool)
    to_inputs = _Side(base, np.zeros_like(base), inside, step[None], every)

    first, variant = np.divmod(np.arange(size)[:, None] + padding, stride)
    offset, rest = np.divmod(np.arange(stride)[:, None] - step, stride)
    found = first + offset[variant[:, 0]]
    inside = (found >= 0) & (found < count)
    return to_inputs, _Side(first, variant, inside, offset, rest == 0)


def _outer(function: np.ufunc, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Apply `function` to all combinations of rows, and of columns, of matrices."""
    found = parts[0]
    for part in parts[1:]:
        found = function.outer(found, part).swapaxes(1, 2).reshape(len(found) * len(part), -1)
    return found


def _pairs(kinds: Ints) -> Ints:
    """Pair positions of the same kind: [pairs, 2], ordered by the first one; -1 for a position without partner."""
    found = []
    for kind in np.unique(kinds):
        same = np.flatnonzero(kinds == kind)
        found.append(np.append(same, [-1] * (len(same) % 2)).reshape(-1, 2))
    pairs = np.concatenate(found)
    return pairs[pairs[:, 0].argsort()]


class _Lists:
    """The kernels' index of the weights at every position of one side of a convolution.

    Weight k joins channel `row[k]` of this side with `column[k]` of the other by kernel tap `tap[k]`.
    """

    def __init__(
        self, along: Sequence[_Side], sizes: Sequence[int], row: Ints, column: Ints, tap: Ints, slot: Ints, shape: Any
    ) -> None:
        rows, columns = shape
        strides = [int(np.prod(sizes[dim + 1 :])) for dim in range(len(sizes))]
        base = _outer(np.add, [side.base * stride for side, stride in zip(along, strides, strict=True)])
        offset = _outer(np.add, [side.offset * stride for side, stride in zip(along, strides, strict=True)])
        member = _outer(np.logical_and, [side.member for side in along])
        inside = _outer(np.logical_and, [side.inside for side in along])
        variant = along[0].variant
        for side in along[1:]:
            variant = _outer(np.add, [variant * len(side.member), side.variant])
        variant = variant[:, 0]
        taps = inside.shape[1]
        # a tap that a variant has no weights for may be in a run: nothing is found there
        patterns, kind = np.unique(inside | ~member[variant], axis=0, return_inverse=True)
        edges = [np.flatnonzero(np.diff(pattern, prepend=False, append=False)) for pattern in patterns]
        # as many columns at a time as the innermost cache holds, but enough for some weights of every row
        density = max(1, len(row)) / (rows * columns * taps)
        block = column.astype(np.int64) // max(1, int(max(tuning.CACHED_CHANNELS, tuning.ROW_WEIGHTS / density) / taps))
        blocks = int(block.max(initial=0)) + 1
        cells = blocks * rows * taps
        starts: list[Ints] = []
        order: list[Ints] = []
        for v, taken in enumerate(member):
            of_variant = np.flatnonzero(taken[tap])
            key = (block[of_variant] * rows + row[of_variant]) * taps + tap[of_variant]
            starts.append(sum(map(len, order)) + np.concatenate([[0], np.bincount(key, minlength=cells).cumsum()]))
            order.append(of_variant[np.argsort(key, kind="stable")])
            offset[v] *= columns
        self._arrays = {
            "base": base * columns,
            "list": variant * (cells + 1),
            "kind": kind,
            "first": np.cumsum([0, *(len(edge) // 2 for edge in edges)]),
            "runs": np.concatenate(edges),
            "start": np.concatenate(starts),
            "offset": np.concatenate([offset[v][tap[k]] + column[k] for v, k in enumerate(order)]),
            "slot": slot[np.concatenate(order)],
            "pair": _pairs(variant * len(patterns) + kind.reshape(-1)),
        }
        self._arrays = {name: np.ascontiguousarray(a.reshape(-1), dtype=np.int32) for name, a in self._arrays.items()}
        pointers = (self._arrays[name].ctypes.data for name in _FIELDS)
        self.struct = ctypes.byref(_Struct(*pointers, len(base), len(self._arrays["pair"]) // 2, rows, taps, blocks))


class Pattern:
    """The kept weights of a convolution, for inputs of one size.

    `indices` [weights, 2 + spatial dimensions] point into the weight tensor [rows, columns, *kernel], and `slots`
    [weights] into the vector of kept weights; `geometry` is (stride, padding, dilation).
    """

    def __init__(
        self,
        indices: Tensor,
        slots: Tensor,
        shape: Sequence[int],
        sizes: Sequence[int],
        geometry: tuple[Sequence[int], Sequence[int], Sequence[int]],
    ) -> None:
        rows, columns, *kernel = shape
        sides = [_sides(*each) for each in zip(sizes, kernel, *geometry, strict=True)]
        self.out_sizes = [len(to_inputs.base) for to_inputs, _ in sides]
        row, column, *along = indices.numpy(force=True).T
        tap = np.ravel_multi_index(along, kernel)
        slot = slots.numpy(force=True)
        self.rows, self.columns = rows, columns
        self.to_inputs = _Lists([a for a, _ in sides], sizes, row, column, tap, slot, (rows, columns))
        self.to_outputs = _Lists([b for _, b in sides], self.out_sizes, column, row, tap, slot, (columns, rows))


def convolve(x: Tensor, weights: Tensor, pattern: Pattern) -> Tensor:
    """Compute the convolution of `x` [n, columns, ...] with kept weights: [n, rows, ...], both batch-last in memory."""
    result: Tensor = _Convolution.apply(x, weights, pattern)
    return result


def _gather(x: Tensor, weights: Tensor, lists: _Lists, shape: Sequence[int]) -> Tensor:
    out = empty_in_order(shape, (*range(2, len(shape)), 1, 0), x)
    kernels.call("gather", x.dtype, (out, x, weights), lists.struct, shape[0], torch.get_num_threads())
    return out


def _dots(x: Tensor, delta: Tensor, count: int, lists: _Lists, n: int) -> Tensor:
    loaded = kernels.loaded()
    assert loaded is not None
    parts = x.new_zeros((count, kernels.VECTOR_BYTES[loaded.set] // x.element_size()))
    kernels.call("dots", x.dtype, (parts, x, delta), lists.struct, n, torch.get_num_threads())
    return parts.sum(1)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(x, weights)
        ctx.pattern = pattern
        return _gather(x, weights, pattern.to_inputs, (len(x), pattern.rows, *pattern.out_sizes))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weights = ctx.saved_tensors
        delta = gradients[0].permute(*range(2, x.dim()), 1, 0).contiguous()  # [..., rows, n]
        onward = _gather(delta, weights, ctx.pattern.to_outputs, x.shape) if ctx.needs_input_grad[0] else None
        return onward, _dots(x, delta, len(weights), ctx.pattern.to_inputs, len(x)), None
