"""Execute a masked network on its live channels only, exactly.

An output channel of a convolution whose weights are all pruned is constant over batch and positions; an input
channel that no kept weight reads changes nothing. `Compact` convolves the others alone and returns `Live`: the live
channels, and one number for each dead one. Normalisation, activations, pooling, residual sums and the next
convolution take both as they are; anything else gets the whole tensor. Outputs, gradients and updates are those of
the masked network up to rounding, and nothing in the model's code changes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pbt_bench.pruning.masks import Masks

STEP = 8  # vector kernels take channels by so many
WORTH = 10**8  # multiply-adds of a forward pass that `auto` must save in a layer to take its channels apart
FEW = 0.75  # share of channels that is worth taking out of, or putting back into, all of them


class Live:
    """An activation [n, c, ...] as its live channels `values` [n, live, ...] and the constants of the others.

    `index` [live] holds the live channels, ascending; `constants` [c] those of the dead ones (others do not count),
    None if all are zero for good. `still` says that a constant of zero has no gradient, because it comes through
    a ReLU: then it may be left out of a sum.
    """

    def __init__(self, values: Tensor, index: Tensor, channels: int, constants: Tensor | None, still: bool) -> None:
        self.values, self.index, self.channels, self.constants, self.still = values, index, channels, constants, still

    @property
    def shape(self) -> torch.Size:
        """Of the whole tensor."""
        return torch.Size([self.values.shape[0], self.channels, *self.values.shape[2:]])

    def dim(self) -> int:
        """Number of dimensions."""
        return self.values.dim()

    def within(self, channels: Tensor) -> Tensor:
        """`channels`, which hold all live ones, of the whole tensor."""
        if len(channels) == len(self.index):
            return self.values
        shape = (self.values.shape[0], len(channels), *self.values.shape[2:])
        if self.constants is None:
            base = self.values.new_zeros(()).expand(shape)
        else:
            base = _row(self.constants.index_select(0, channels), self.values).expand(shape)
        return _Put.apply(base, self.values, _places(self.index, channels))  # type: ignore[no-any-return]

    def whole(self) -> Tensor:
        """The whole tensor."""
        return self.within(_all(self.channels, self.index.device))

    def __add__(self, other: Any) -> Any:
        return _add(self, other)

    __radd__ = __add__

    def __iadd__(self, other: Any) -> Live:
        return self._becomes(_add(self, other))

    def _becomes(self, other: Live | Tensor) -> Live:
        """The result of an operation in place: every name of this activation sees it."""
        if not isinstance(other, Live):
            other = Live(other, _all(self.channels, other.device), self.channels, None, still=True)
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


def _row(vector: Tensor, like: Tensor) -> Tensor:
    return vector.to(like.dtype).view(1, -1, *[1] * (like.dim() - 2))


def _operator(name: str) -> Callable[..., Any]:
    return lambda self, *others: getattr(self.whole(), name)(*map(_whole, others))


for _name in ("getitem", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "neg", "matmul", "len"):
    setattr(Live, f"__{_name}__", _operator(f"__{_name}__"))  # operators are not looked up by __getattr__


# Positions are computed once for every pair of lists (tensors are compared by identity), so no step waits for them.
@lru_cache(maxsize=1 << 12)
def _all(channels: int, device: torch.device) -> Tensor:
    return torch.arange(channels, device=device)


@lru_cache(maxsize=1 << 12)
def _union(a: Tensor, b: Tensor) -> Tensor:
    union: Tensor = torch.cat([a, b]).unique()
    return union


@lru_cache(maxsize=1 << 12)
def _places(some: Tensor, among: Tensor) -> Tensor:
    """Positions of `some` in `among`, both ascending."""
    return torch.searchsorted(among, some)


@lru_cache(maxsize=1 << 12)
def _shared(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """What of `a` is in `b`, and what is not."""
    inside = torch.isin(a, b)
    return a[inside], a[~inside]


@lru_cache(maxsize=1 << 12)
def _reads(read: Tensor, inputs: Tensor) -> Tensor:
    """What to take of `inputs` to have `read`."""
    return inputs[_filled(torch.isin(inputs, read))]


class _Put(torch.autograd.Function):
    """`base`, expanded from one row or one number, with the channels `index` replaced by `values`."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, values: Tensor, index: Tensor) -> Tensor:
        """In the memory format of `values`."""
        ctx.save_for_backward(index)
        return _empty(base.shape, values).copy_(base).index_copy_(1, index, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        """To `values` the gradient at `index`, to `base` the rest."""
        (index,) = ctx.saved_tensors
        rest = gradient.clone().index_fill_(1, index, 0) if ctx.needs_input_grad[0] else None
        return rest, _select(gradient, index), None


class _Sum(torch.autograd.Function):
    """`base` with `values` added to its channels `index`, and `constants` to the others."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, values: Tensor, index: Tensor, constants: Tensor | None) -> Tensor:
        """A new tensor."""
        ctx.save_for_backward(index)
        out = _empty(base.shape, base)
        out = out.zero_() if constants is None else out.copy_(_row(constants, base).expand_as(out))
        return out.index_copy_(1, index, values.to(base.dtype)).add_(base)  # index_add_ is far slower

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, Tensor | None]:
        """The sum over batch and positions for `constants`."""
        (index,) = ctx.saved_tensors
        constants = None
        if ctx.needs_input_grad[3]:
            constants = gradient.sum([d for d in range(gradient.dim()) if d != 1]).index_fill_(0, index, 0)
        return gradient, _select(gradient, index), None, constants


class _Take(torch.autograd.Function):
    """Channels `index` of `values`."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        """In the memory format of `values`."""
        ctx.save_for_backward(index)
        ctx.like = values
        return _select(values, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Zero in the other channels."""
        (index,) = ctx.saved_tensors
        return _empty(ctx.like.shape, gradient).zero_().index_copy_(1, index, gradient), None


class _Block(torch.autograd.Function):
    """The rows `outputs` and columns `inputs` of a weight [o, i, ...]."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
        """A copy."""
        ctx.save_for_backward(weight, outputs, inputs)
        return weight.index_select(0, outputs).index_select(1, inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Zero outside the block."""
        weight, outputs, inputs = ctx.saved_tensors
        rows = torch.zeros_like(weight[: len(outputs)]).index_copy_(1, inputs, gradient)
        return torch.zeros_like(weight).index_copy_(0, outputs, rows), None, None


def _select(values: Tensor, index: Tensor) -> Tensor:
    """Channels `index`, in the memory format of `values` (which indexing would lose, and all that follows be slow)."""
    if values.dim() != 4 or not values.is_contiguous(memory_format=torch.channels_last):
        return values.index_select(1, index)
    n, channels, height, width = values.shape
    rows = values.permute(0, 2, 3, 1).reshape(-1, channels).index_select(1, index)
    return rows.view(n, height, width, len(index)).permute(0, 3, 1, 2)


def _empty(shape: torch.Size, like: Tensor) -> Tensor:
    last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return torch.empty(
        shape,
        dtype=like.dtype,
        device=like.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )


def _add(a: Any, b: Any) -> Any:
    if not isinstance(b, Live):
        a, b = b, a
    if not isinstance(a, (Tensor, Live)) or a.shape != b.shape:
        return _whole(a) + _whole(b)
    if isinstance(a, Tensor):
        return _Sum.apply(a, b.values, b.index, b.constants)
    union = _union(a.index, b.index)
    if len(union) > FEW * a.channels:
        union = _all(a.channels, union.device)
    more = None if b.constants is None else b.constants.index_select(0, union)
    values = _Sum.apply(a.within(union), b.values, _places(b.index, union), more)
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
    """Live channels as usual; a constant c becomes the shift while training, (c - mean)·scale + shift otherwise."""
    if not isinstance(x, Live) or not (training or mean is not None) or (mean is None) != (var is None):
        return NotImplemented
    live = x.index

    def some(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.index_select(0, live)

    of_live = (some(mean), some(var))
    values = F.batch_norm(x.values, *of_live, some(weight), some(bias), training, momentum, eps)
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
    """Pooling takes every channel alone; it keeps a constant unless it averages padding in."""

    def pool(x: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("return_indices") or kwargs.get("divisor_override"):
            return NotImplemented
        if function is F.avg_pool2d and (len(args) > 2 or kwargs.get("padding", 0) not in (0, (0, 0))):
            return NotImplemented
        return Live(function(x.values, *args, **kwargs), x.index, x.channels, x.constants, x.still)

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
_CONVOLUTIONS = {F.conv1d, F.conv2d, F.conv3d}


def _filled(chosen: Tensor) -> Tensor:
    """The chosen channels, with some of the others up to a multiple of STEP; all, if that is most of them."""
    count, channels = int(chosen.sum()), len(chosen)
    count = max(1, -(-count // STEP)) * STEP
    if count > FEW * channels:
        count = channels
    return (~chosen).long().argsort(stable=True)[:count].sort().values


class _Plan:
    """Channels of one convolution that a kept weight joins."""

    def __init__(self, mask: Tensor) -> None:
        pairs = mask.flatten(2).any(2)
        self.outputs = _filled(pairs.any(1))
        self.inputs = pairs.any(0).nonzero().flatten()
        self.whole = len(self.outputs) == len(pairs)
        self.saved = mask.numel() - len(self.outputs) * int(_filled(pairs.any(0)).numel()) * mask[0, 0].numel()


class Compact(TorchFunctionMode):
    """While active, the masked convolutions of `model` (of one group) are executed on their live channels.

    All of them with `always`; otherwise those where that saves at least WORTH multiply-adds, by the mask and the
    shapes alone: never by a timing, so that the same run does the same on every machine.
    """

    def __init__(self, model: nn.Module, masks: Masks, always: bool = False) -> None:
        super().__init__()
        self._worth = 0 if always else WORTH
        self._plans: dict[int, _Plan] = {}
        for path, module in model.named_modules():
            mask = masks.get(f"{path}.weight" if path else "weight")
            if type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and module.groups == 1 and mask is not None:
                plan = _Plan(mask)
                if plan.saved:
                    self._plans[id(module.weight)] = plan

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        plan = self._plans.get(id(args[1])) if function in _CONVOLUTIONS and len(args) > 1 else None
        if plan is not None and plan.saved * args[0].shape[0] * args[0].shape[2:].numel() >= self._worth:
            return _convolve(function, plan, *args, **kwargs)
        return function(*args, **kwargs)


def _convolve(
    function: Any, plan: _Plan, x: Any, weight: Tensor, bias: Tensor | None = None, *rest: Any, **options: Any
) -> Any:
    all_inputs = _all(weight.shape[1], weight.device)
    outputs, inputs, fixed = plan.outputs, all_inputs, None
    if isinstance(x, Live):
        inputs, constant = x.index, x.constants
        read, silent = _shared(plan.inputs, x.index)
        if (
            constant is not None
            and len(silent)
            and not (x.still and constant.device.type == "cpu" and not constant.detach()[silent].any())
        ):
            image = _row(constant.index_select(0, silent), x.values).expand(1, -1, *x.shape[2:])
            fixed = function(image, _Block.apply(weight, outputs, silent), None, *rest, **options)
        x = x.values
    else:
        read = plan.inputs
    read = _reads(read, inputs)
    if len(read) < len(inputs):
        x = _Take.apply(x, _places(read, inputs))
        inputs = read
    if plan.whole and len(inputs) == weight.shape[1]:
        return function(x, weight, bias, *rest, **options)
    some = None if bias is None else bias.index_select(0, outputs)
    values = function(x, _Block.apply(weight, outputs, inputs), some, *rest, **options)
    values = values if fixed is None else values + fixed
    return values if plan.whole else Live(values, outputs, len(weight), bias, still=bias is None)
