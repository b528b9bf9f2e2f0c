"""Activations stored as live channels, and normalisation, activation functions, pooling and sums on them.

Any other function gets the whole tensor, so a model's code does not change.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pbt_bench.sparse import memory_format, tuning


class Live:
    """An activation [n, c, ...] as its live channels `values` [n, live, ...] and one constant per dead channel.

    `index` [live] holds the live channels in ascending order. `constants` [c] holds the constants of the dead channels
    (entries of live channels are ignored); None means that all are zero and stay zero. `still` says that a constant of
    zero has no gradient, because it comes from a ReLU, so it may be left out of a sum.
    """

    def __init__(self, values: Tensor, index: Tensor, channels: int, constants: Tensor | None, still: bool) -> None:
        self.values, self.index, self.channels, self.constants, self.still = values, index, channels, constants, still

    @property
    def shape(self) -> torch.Size:
        """Shape of the whole tensor."""
        return torch.Size([self.values.shape[0], self.channels, *self.values.shape[2:]])

    def dim(self) -> int:
        """Return the number of dimensions."""
        return self.values.dim()

    def within(self, channels: Tensor) -> Tensor:
        """Return `channels` of the whole tensor; they must include every live channel."""
        if len(channels) == len(self.index):
            return self.values
        shape = (self.values.shape[0], len(channels), *self.values.shape[2:])
        if self.constants is None:
            base = self.values.new_zeros(()).expand(shape)
        else:
            base = per_channel(self.constants.index_select(0, channels), self.values).expand(shape)
        return _Put.apply(base, self.values, indices_among(self.index, channels))  # type: ignore[no-any-return]

    def whole(self) -> Tensor:
        """Return the whole tensor, in a memory format that PyTorch's functions are fast with."""
        whole = self.within(all_channels(self.channels, self.index.device))
        batch_last = memory_format.is_batch_last(whole)
        return memory_format.move(whole, memory_format.channels_last(whole.dim())) if batch_last else whole

    def batch_last(self) -> Live:
        """Return the same activation in the batch-last format."""
        values = memory_format.move(self.values, memory_format.batch_last(self.dim()))
        return Live(values, self.index, self.channels, self.constants, self.still)

    def __add__(self, other: Any) -> Any:
        return _add(self, other)

    __radd__ = __add__

    def __iadd__(self, other: Any) -> Live:
        return self._becomes(_add(self, other))

    def _becomes(self, other: Live | Tensor) -> Live:
        """Take over the result of an in-place operation, so that every reference to this activation has it."""
        if not isinstance(other, Live):
            other = Live(other, all_channels(self.channels, other.device), self.channels, None, still=True)
        self.__dict__.update(other.__dict__)
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.whole(), name)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (carry := _CARRIED.get(function)) is not None and (result := carry(*args, **kwargs)) is not NotImplemented:
            return result
        return function(*map(_whole, args), **{name: _whole(value) for name, value in kwargs.items()})


def _whole(value: Any) -> Any:
    if isinstance(value, Live):
        return value.whole()
    return type(value)(map(_whole, value)) if type(value) in (list, tuple) else value


def per_channel(vector: Tensor, like: Tensor) -> Tensor:
    """Reshape a vector of one number per channel so that it broadcasts over an activation."""
    return vector.to(like.dtype).view(1, -1, *[1] * (like.dim() - 2))


def _operator(name: str) -> Callable[..., Any]:
    return lambda self, *others: getattr(self.whole(), name)(*map(_whole, others))


for _name in ("getitem", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "neg", "matmul", "len"):
    setattr(Live, f"__{_name}__", _operator(f"__{_name}__"))  # Python does not look operators up by __getattr__


# Results are cached by tensor identity, so that they are computed once and a step on a GPU never waits for them.
@lru_cache(maxsize=1 << 12)
def all_channels(channels: int, device: torch.device) -> Tensor:
    """Return the indices 0 to `channels` - 1."""
    return torch.arange(channels, device=device)


@lru_cache(maxsize=1 << 12)
def _union(a: Tensor, b: Tensor) -> Tensor:
    union: Tensor = torch.cat([a, b]).unique()
    return union


@lru_cache(maxsize=1 << 12)
def indices_among(some: Tensor, among: Tensor) -> Tensor:
    """Return the indices at which the entries of `some` stand in `among`, both ascending."""
    return torch.searchsorted(among, some)


@lru_cache(maxsize=1 << 12)
def shared(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the entries of `a` that are in `b`, and the entries that are not."""
    inside = torch.isin(a, b)
    return a[inside], a[~inside]


class _Put(torch.autograd.Function):
    """Replace the channels `index` of `base`, expanded from one row or one number, by `values`."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, values: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        return memory_format.put(memory_format.empty(base.shape, values).copy_(base), index, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (index,) = ctx.saved_tensors
        rest = gradient.clone().index_fill_(1, index, 0) if ctx.needs_input_grad[0] else None
        return rest, memory_format.select(gradient, index), None


class _Sum(torch.autograd.Function):
    """Add `values` to the channels `index` of `base`, and `constants` to its other channels."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, values: Tensor, index: Tensor, constants: Tensor | None) -> Tensor:
        ctx.save_for_backward(index)
        out = memory_format.empty(base.shape, base)
        out = out.zero_() if constants is None else out.copy_(per_channel(constants, base).expand_as(out))
        return memory_format.put(out, index, values.to(base.dtype)).add_(base)  # index_add_ is far slower

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, Tensor | None]:
        (index,) = ctx.saved_tensors
        constants = None
        if ctx.needs_input_grad[3]:
            constants = gradient.sum([d for d in range(gradient.dim()) if d != 1]).index_fill_(0, index, 0)
        return gradient, memory_format.select(gradient, index), None, constants


def take(values: Tensor, index: Tensor) -> Tensor:
    """Select the channels `index` of `values`, in the memory format of `values`."""
    result: Tensor = _Take.apply(values, index)
    return result


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.like = values
        return memory_format.select(values, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return memory_format.put(memory_format.empty(ctx.like.shape, gradient).zero_(), index, gradient), None


def _add(a: Any, b: Any) -> Any:
    if not isinstance(b, Live):
        a, b = b, a
    if not isinstance(a, (Tensor, Live)) or a.shape != b.shape:
        return _whole(a) + _whole(b)
    if isinstance(a, Tensor):
        if not memory_format.is_batch_last(b.values):
            return _Sum.apply(a, b.values, b.index, b.constants)
        a = Live(a, all_channels(b.channels, a.device), b.channels, None, still=True)
    if memory_format.is_batch_last(a.values) or memory_format.is_batch_last(b.values):
        a, b = a.batch_last(), b.batch_last()
    union = _union(a.index, b.index)
    if len(union) > tuning.FEW_CHANNELS * a.channels:
        union = all_channels(a.channels, union.device)
    more = None if b.constants is None else b.constants.index_select(0, union)
    values = _Sum.apply(a.within(union), b.values, indices_among(b.index, union), more)
    known = [x.constants for x in (a, b) if x.constants is not None]
    constants = known[0] + known[1] if len(known) == 2 else known[0] if known else None
    return Live(values, union, a.channels, constants, a.still and b.still)


def _batch_norm(
    x: Any,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Normalise the live channels; a constant c becomes the shift in training, else (c - mean)·scale + shift."""
    if not isinstance(x, Live) or not (training or mean is not None) or (mean is None) != (var is None):
        return NotImplemented
    live = x.index

    def some(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.index_select(0, live)

    of_live = (some(mean), some(var))
    values = memory_format.by_rows(F.batch_norm, x.values, *of_live, some(weight), some(bias), training, momentum, eps)
    constants = bias
    if training and mean is not None and var is not None:
        with torch.no_grad():
            mean.mul_(1 - momentum)
            if x.constants is not None:
                mean.add_(x.constants, alpha=momentum)
            mean.index_copy_(0, live, of_live[0])  # type: ignore[arg-type]
            var.mul_(1 - momentum).index_copy_(0, live, of_live[1])  # type: ignore[arg-type]
    elif mean is not None and var is not None:
        constants = (-mean if x.constants is None else x.constants - mean) * (var + eps).rsqrt()
        constants = constants if weight is None else constants * weight
        constants = constants if bias is None else constants + bias
    return Live(values, live, x.channels, constants, still=False)


def _relu(x: Any, inplace: bool = False) -> Any:
    constants = None if x.constants is None else F.relu(x.constants)
    result = Live(F.relu(x.values), x.index, x.channels, constants, still=True)
    return x._becomes(result) if inplace else result


def _pooling(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """Pool every channel by itself; a constant stays unless padding is averaged in."""

    def pool(x: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("return_indices") or kwargs.get("divisor_override"):
            return NotImplemented
        if function is F.avg_pool2d and (len(args) > 2 or kwargs.get("padding", 0) not in (0, (0, 0))):
            return NotImplemented
        values = memory_format.by_images(function, x.values, *args, **kwargs)
        return Live(values, x.index, x.channels, x.constants, x.still)

    return pool


def _plus(a: Any, b: Any, **kwargs: Any) -> Any:
    return NotImplemented if kwargs else _add(a, b)


_CARRIED: dict[Any, Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    F.relu: _relu,
    torch.relu: _relu,
    torch.add: _plus,
    Tensor.add: _plus,
    Tensor.add_: lambda a, b, **kwargs: NotImplemented if kwargs or not isinstance(a, Live) else a.__iadd__(b),
    F.adaptive_avg_pool2d: _pooling(F.adaptive_avg_pool2d),
    F.avg_pool2d: _pooling(F.avg_pool2d),
    F.max_pool2d: _pooling(F.max_pool2d),
}
