"""Convolutions of one image as products of matrices, of the rows and input channels that have weights left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache, partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pbt_bench import native
from pbt_bench.pruning.intercept import conv_geometry, patches

FEW = 64  # positions up to which a matrix of columns is best kept in rows
FEWER = 16  # positions up to which native/block.h is faster than two products, and that it takes
TILE = 256  # columns of a tile of native/block.h
MANY = 2**22  # entries of a matrix of columns that is not kept in memory
CHUNK = 2**18  # entries of a product that fit the cache
WORTH = 0.9  # share of a weight above which leaving out what is dead does not pay


class Block:
    """A weight [o, c, ...] as a matrix of its live rows and input channels: those in which any weight is kept.

    `listed` are flat indices of the kept weights, ascending; None = every weight, and the block is all.
    `rows` and `channels` are None if the block is all: also when too little is dead, or everything.
    """

    def __init__(self, weight: Tensor, mask: Tensor | None = None, listed: Tensor | None = None) -> None:
        self.rows: Tensor | None = None
        self.channels: Tensor | None = None
        self.matrix = weight.detach().view(len(weight), -1)  # [live rows, live channels · ∏k]
        self._places = listed  # of the listed weights in the matrix, flat
        self._kept: Tensor | None = None  # the mask of the matrix
        if mask is None or listed is None:
            return
        kept = mask.view(torch.uint8).view(*weight.shape[:2], -1)
        rows = true(kept.view(len(weight), -1).amax(1).view(torch.bool))
        channels = true(kept.amax(0).amax(1).view(torch.bool))
        if 0 < len(rows) * len(channels) < WORTH * kept.shape[0] * kept.shape[1]:
            self.rows, self.channels = rows, channels
            live = weight.detach().view(kept.shape).index_select(0, rows).index_select(1, channels)
            self.matrix = live.view(len(rows), -1)
            kept = kept.index_select(0, rows).index_select(1, channels)
            self._places = true(kept.view(torch.bool))
        else:
            kept = kept.clone()  # rounds go on to change the mask
        self._kept = kept.view(self.matrix.shape)

    def drop(self, last: Tensor) -> None:
        """Set the weights at these places of the list to 0, in the matrix if it is not the weight's own memory."""
        if self.rows is not None and self._places is not None:
            native.clear(self.matrix, self._places.index_select(0, last))

    def backward(self, delta: Tensor, columns: Tensor, into: Tensor, add: bool) -> Tensor:
        """`product`, and the gradient with respect to `columns`, which is contiguous transposed: few positions."""
        if columns.shape[1] > FEWER or not native.takes(columns):
            self.product(delta, columns.t(), into, add)
            return (delta.t().contiguous() @ self.matrix).t()
        onward = torch.empty_like(columns)
        column, start = self._tiles or (None, None)
        (height, width), n = self.matrix.shape, columns.shape[1]
        tensors = (into, onward, self.matrix, delta, columns, column, start)
        native.call("backward", into.dtype, tensors, height, width, n, int(add), torch.get_num_threads())
        return onward

    def product(self, delta: Tensor, columns: Tensor, into: Tensor, add: bool) -> None:
        """Write (or add) δ u at the listed weights into a vector of them, or the whole of it into a whole tensor.

        δ is [live rows, positions] and u [positions, columns]. A part of the product is read while it is in the cache.
        """
        if self._kept is None:
            product = into.view(self.matrix.shape)
            torch.addmm(product, delta, columns, beta=int(add), out=product)
            return
        for rows, places, where in self._chunks:
            part = torch.mm(delta[rows], columns).view(-1)
            if add:
                into[where] += part.index_select(0, places)
            else:
                torch.index_select(part, 0, places, out=into[where])

    @cached_property
    def _tiles(self) -> tuple[Tensor, Tensor] | None:
        """For every listed weight its column in a tile, and where the list of a row's tile starts; None = all."""
        if self._kept is None or self._places is None:
            return None
        height, width = self._kept.shape
        column = torch.empty(len(self._places) + 1, dtype=torch.uint8)  # the kernel writes one too many
        start = torch.empty(height * -(-width // TILE) + 1, dtype=torch.long)
        native.call("list_tiles", None, (column, start, self._kept), height, width)
        return column, start

    @cached_property
    def _chunks(self) -> list[tuple[slice, Tensor, slice]]:
        """Rows, the listed places in those rows, and where they are in the list."""
        chunks, (height, width), listed = [], self.matrix.shape, self._places
        assert listed is not None
        step = max(1, CHUNK // max(1, width))
        starts = range(0, height, step)
        ends = torch.searchsorted(listed, torch.tensor([min(s + step, height) * width for s in starts]).to(listed))
        begin = 0
        for start, end in zip(starts, ends.tolist(), strict=True):
            chunks.append((slice(start, start + step), (listed[begin:end] - start * width).int(), slice(begin, end)))
            begin = end
        return chunks


def true(flags: Tensor) -> Tensor:
    """The flat indices at which bool `flags` are True, ascending. NumPy finds many of them ten times faster."""
    if flags.device.type == "cpu":
        return torch.from_numpy(flags.reshape(-1).numpy().nonzero()[0])
    return flags.reshape(-1).nonzero().flatten()


def fits(inputs: Tensor, weight: Tensor, options: Any) -> bool:
    """Whether `convolve` takes this 2-d convolution: one image, one group, columns that may be kept in memory."""
    one = inputs.dim() == 4 and len(inputs) == 1 and options.get("groups", 1) == 1
    return one and inputs.numel() * prod(weight.shape[2:]) <= MANY


def convolve(
    inputs: Tensor, weight: Tensor, bias: Any, options: Any, block: Block, target: Callable[[], tuple[Tensor, bool]]
) -> Tensor:
    """The convolution; its backward pass writes the weight's gradient where `target()` says, or adds it if so told.

    In float64 this is 2 to 3 times as fast as the library's convolution, the more so the less is alive.
    """
    result: Tensor = _Convolution.apply(inputs, weight, options, block, target)
    return result if bias is None else result + bias.view(-1, 1, 1)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, options: Any, block: Block, target: Any) -> Tensor:
        stride, padding, dilation, _ = conv_geometry(options, weight)
        kernel = weight.shape[2:]
        places = [
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(inputs.shape[2:], kernel, stride, padding, dilation, strict=True)
        ]
        live = inputs if block.channels is None else inputs.index_select(1, block.channels)
        few = prod(places) <= FEW
        columns, classes = (None, None) if few else _classes(live, kernel, stride, padding, dilation)
        if columns is None:
            columns = patches(live, weight, options)[0, 0]  # [columns, positions]
        if few:  # a product with few columns is slow if they do not lie in rows
            columns = columns.t().contiguous().t()
        ctx.save_for_backward(columns, classes)
        ctx.block, ctx.target, ctx.few, ctx.shape = block, target, few, inputs.shape
        ctx.fold = partial(
            F.fold,
            output_size=tuple(inputs.shape[2:]),
            kernel_size=tuple(kernel),
            dilation=tuple(dilation),
            padding=tuple(padding),
            stride=tuple(stride),
        )
        result = (columns.t() @ block.matrix.t()).t() if few else block.matrix @ columns
        if classes is not None:
            result = result.index_select(1, classes)
        return _spread(result, 0, block.rows, len(weight)).reshape(1, -1, *places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        columns, classes = ctx.saved_tensors
        block = ctx.block
        delta = gradients[0].reshape(gradients[0].shape[1], -1)
        delta = delta if block.rows is None else delta.index_select(0, block.rows)
        into, add = ctx.target()
        if ctx.few:
            onward = block.backward(delta.contiguous(), columns, into, add)
        else:
            summed = delta
            if classes is not None:
                summed = delta.new_zeros(len(delta), columns.shape[1]).index_add_(1, classes, delta)
            block.product(summed, columns.t(), into, add)
            onward = block.matrix.t() @ delta if ctx.needs_input_grad[0] else None
        if onward is not None and ctx.needs_input_grad[0]:
            onward = _spread(ctx.fold(onward[None]), 1, block.channels, ctx.shape[1])
        return onward, None, None, None, None


def _classes(
    inputs: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """The different columns [columns, classes], and which of them each position has; None if most differ.

    An image of ones is the same everywhere but near its edges, and so is what the first layers make of it.
    """
    pixels = F.pad(inputs, [p for pad in reversed(padding) for p in (pad, pad)])[0]
    seen = _seen(tuple(pixels.shape[1:]), tuple(kernel), tuple(stride), tuple(dilation)).to(inputs.device)
    pixels = pixels.flatten(1)
    kinds = _equal(pixels)
    classes = _equal(kinds[seen]) if kinds is not None else None
    if classes is None:
        return None, None
    count, positions = int(classes.max()) + 1, classes.shape[0]
    if count > positions / 2:
        return None, None
    first = classes.new_empty(count).scatter_(0, classes, torch.arange(positions, device=classes.device))
    return pixels.index_select(1, seen[:, first].flatten()).view(-1, count), classes


@lru_cache
def _seen(size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """The pixels that a convolution sees, flat: [∏k, positions]."""
    image = torch.arange(prod(size)).view(1, 1, *size)
    return patches(image, torch.empty(1, 1, *kernel), {"stride": stride, "dilation": dilation})[0, 0]


def _equal(matrix: Tensor) -> Tensor | None:
    """A number for every column, the same for equal columns only; None if that cannot be told by one sum of each."""
    factors = torch.linspace(1, 2, len(matrix), dtype=torch.float64, device=matrix.device).sqrt()
    _, kinds = (factors @ matrix.double()).unique(return_inverse=True)
    first = kinds.new_empty(int(kinds.max()) + 1).scatter_(0, kinds, torch.arange(len(kinds), device=kinds.device))
    return kinds if torch.equal(matrix.index_select(1, first.index_select(0, kinds)), matrix) else None


def _spread(values: Tensor, dim: int, at: Tensor | None, size: int) -> Tensor:
    """Zeros with `values` at the indices `at` of a dimension."""
    if at is None:
        return values
    shape = list(values.shape)
    shape[dim] = size
    return values.new_zeros(shape).index_copy_(dim, at, values)
