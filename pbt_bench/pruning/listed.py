"""Convolutions of one image as products of matrices, and the gradients of the weights that are listed."""

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

FEWER = 16  # positions up to which native/listed.h is faster than the library, however many weights are listed
FEW = 64  # positions up to which it is faster, if
SPARSE = 0.6  # at most this share of the weights is listed
TILE = 256  # columns of a tile of native/listed.h
MANY = 2**22  # entries of a matrix of columns that is not kept in memory
WORTH = 0.75  # share of positions with a gradient up to which leaving out the others pays
CHUNK = 2**18  # entries of a product that fit the cache


class Listed:
    """A weight [o, c, ...] as a matrix [o, c·∏k], of which some weights are listed; the others are 0.

    `listed` are flat indices, ascending; None = every weight. The weight's memory is the matrix's.
    """

    def __init__(self, weight: Tensor, listed: Tensor | None = None) -> None:
        self.matrix = weight.detach().view(len(weight), -1)
        self._listed = listed

    def drop(self, last: Tensor) -> None:
        """The weights at these places of the list have been set to 0 in the weight's memory."""
        if self._listed is not None and "_values" in self.__dict__:
            native.clear(self._values, last)

    def _sparse(self, positions: int) -> bool:
        """Whether native/listed.h takes this many positions, and is faster than the library."""
        share = 1 if self._listed is None else len(self._listed) / max(1, self.matrix.numel())
        few = positions <= FEWER or (positions <= FEW and share <= SPARSE)
        return few and native.takes(self.matrix)

    def product(self, u: Tensor) -> Tensor:
        """W u for u [c·∏k, positions]."""
        (height, width), n = self.matrix.shape, u.shape[1]
        if not self._sparse(n):
            return self.matrix @ u
        result = u.new_empty(height, n)
        tensors = (result, self._values, u, *self._tiles)
        native.call("listed_product", u.dtype, tensors, height, width, n, torch.get_num_threads())
        return result

    def backward(self, delta: Tensor, u: Tensor, into: Tensor, add: bool) -> Tensor:
        """Wᵀδ for δ [o, positions], and the `gradient`."""
        (height, width), n = self.matrix.shape, u.shape[1]
        if not self._sparse(n):
            self.gradient(delta, u, into, add)
            return self.transposed(delta)
        onward = torch.empty_like(u)
        tensors = (into, onward, self._values, delta.contiguous(), u, *self._tiles)
        native.call("listed_backward", u.dtype, tensors, height, width, n, int(add), torch.get_num_threads())
        return onward

    def transposed(self, delta: Tensor) -> Tensor:
        """Wᵀδ, in the order of factors that is fast for few positions."""
        return (delta.t().contiguous() @ self.matrix).t()

    def gradient(self, delta: Tensor, u: Tensor, into: Tensor, add: bool) -> None:
        """Write (or add) δ uᵀ at the listed weights into a vector of them, or the whole of it into a whole tensor.

        A part of the product is read while it is in the cache.
        """
        if self._listed is None:
            whole = into.view(self.matrix.shape)
            torch.addmm(whole, delta, u.t(), beta=int(add), out=whole)
            return
        for rows, places, where in self._chunks:
            part = torch.mm(delta[rows], u.t()).view(-1)
            if add:
                into[where] += part.index_select(0, places)
            else:
                torch.index_select(part, 0, places, out=into[where])

    @cached_property
    def _values(self) -> Tensor:
        """The listed weights."""
        values = self.matrix.view(-1)
        return values if self._listed is None else values.index_select(0, self._listed)

    @cached_property
    def _tiles(self) -> tuple[Tensor, Tensor]:
        """For every listed weight its column in a tile, and where the list of a row's tile starts."""
        height, width = self.matrix.shape
        column = torch.empty(len(self._values), dtype=torch.uint8)
        start = torch.empty(height * -(-width // TILE) + 1, dtype=torch.long)
        tensors = (column, start, self._listed)
        native.call("list_tiles", None, tensors, len(column), height, width, torch.get_num_threads())
        return column, start

    @cached_property
    def _chunks(self) -> list[tuple[slice, Tensor, slice]]:
        """Rows, the listed places in those rows, and where they are in the list."""
        chunks, (height, width), listed = [], self.matrix.shape, self._listed
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
    inputs: Tensor, weight: Tensor, bias: Any, options: Any, listed: Listed, target: Callable[[], tuple[Tensor, bool]]
) -> Tensor:
    """The convolution; its backward pass writes the weight's gradient where `target()` says, or adds it if so told.

    In float64 this is faster than the library's convolution, the more so the less is listed.
    """
    result: Tensor = _Convolution.apply(inputs, weight, options, listed, target)
    return result if bias is None else result + bias.view(-1, 1, 1)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, options: Any, listed: Listed, target: Any) -> Tensor:
        stride, padding, dilation, _ = conv_geometry(options, weight)
        kernel = weight.shape[2:]
        places = [
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(inputs.shape[2:], kernel, stride, padding, dilation, strict=True)
        ]
        window: Any = {"kernel_size": kernel, "dilation": dilation, "padding": padding, "stride": stride}
        columns, classes = None, None  # [columns, positions]
        if prod(places) <= FEWER:
            columns = F.unfold(inputs, **window)[0]
        elif prod(places) > FEW:
            columns, classes = _classes(inputs, kernel, stride, padding, dilation)
        if columns is None:
            columns = patches(inputs, weight, options)[0, 0]  # faster where there are many
        ctx.save_for_backward(columns, classes)
        ctx.listed, ctx.target = listed, target
        ctx.fold = partial(F.fold, output_size=inputs.shape[2:], **window)
        result = listed.product(columns)
        if classes is not None:
            result = _columns(result, classes)
        return result.reshape(1, -1, *places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        columns, classes = ctx.saved_tensors
        whole = delta = gradients[0].reshape(gradients[0].shape[1], -1)
        live = true(delta.ne(0).any(0))  # where every channel has the same maximum, the other inputs of it do not count
        if pays := len(live) <= WORTH * delta.shape[1]:
            delta = _columns(delta, live)
        if classes is None:
            onward = ctx.listed.backward(delta, _columns(columns, live) if pays else columns, *ctx.target())
        else:
            of = (classes.index_select(0, live) if pays else classes).expand(delta.shape)
            summed = delta.new_zeros(len(delta), columns.shape[1]).scatter_add_(1, of, delta)
            ctx.listed.gradient(summed, columns, *ctx.target())
            onward = ctx.listed.transposed(delta)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        if pays:
            every = onward.new_zeros(len(onward), whole.shape[1])
            onward = every.scatter_(1, live.expand(onward.shape), onward)
        return ctx.fold(onward[None]), None, None, None, None


def _columns(matrix: Tensor, at: Tensor) -> Tensor:
    """The columns at these indices; several times as fast as index_select."""
    return matrix.gather(1, at.expand(len(matrix), -1))


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
    return _columns(pixels, seen[:, first].flatten()).view(-1, count), classes


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
    return kinds if torch.equal(_columns(matrix, first.index_select(0, kinds)), matrix) else None
