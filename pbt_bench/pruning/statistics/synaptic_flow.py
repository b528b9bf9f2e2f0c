"""Synaptic flow, finite at any depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from math import floor, inf, ldexp, log2
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from pbt_bench.pruning.intercept import LINEAR_MAPS, Intercept, conv_geometry, linear_map, patches, split_call
from pbt_bench.pruning.statistics import Task, Tensors, provides

FEW = 64  # positions up to which a matrix of columns is best kept in rows
MANY = 2**22  # entries of a matrix of columns that is not kept in memory


@provides(data=False, synaptic_flow="Tanaka et al. 2020, arXiv:2006.05467, Eq. 3")
def synaptic_flow(task: Task, wanted: Collection[str]) -> dict[str, Tensors]:
    """∂R/∂|θ| with R = Σ f(1; |θ|), all parameters and buffers replaced by their absolute values, in float64.

    The network is in eval mode with its running statistics as they stand; the input is one example of ones.
    Where float64 overflows (hundreds of residual blocks) the result is that up to one common positive factor.
    """
    return {"synaptic_flow": _flow(task, Tensor.abs)}


@provides(data=False, squared_synaptic_flow="Patil and Dovrolis 2021, arXiv:2010.11354, Eq. 8")
def squared_synaptic_flow(task: Task, wanted: Collection[str]) -> dict[str, Tensors]:
    """∂R/∂θ² with R = Σ f(1; θ²), all parameters squared, buffers absolute; otherwise as `synaptic_flow`."""
    return {"squared_synaptic_flow": _flow(task, Tensor.square)}


def _flow(task: Task, positive: Callable[[Tensor], Tensor]) -> Tensors:
    """The gradient of the summed output with respect to the transformed prunable weights.

    From round to round the transformed weights and the gradients stay in the same memory: to get fresh memory
    from the system costs more than to compute what goes into it.
    """
    state = task.scratch.get("state")
    if state is None:
        state = {name: positive(p.detach().double().contiguous()) for name, p in task.model.named_parameters()}
        state |= {name: b.double().abs() if b.is_floating_point() else b for name, b in task.model.named_buffers()}
        state |= {name: state[name].requires_grad_() for name in task.parameters}
        task.scratch["state"] = state
        task.scratch["flow"] = {name: torch.empty_like(state[name], requires_grad=False) for name in task.parameters}
    elif task.pruned_last is not None:
        with torch.no_grad():
            for name, index in task.pruned_last.items():
                state[name].view(-1)[index] = 0
    else:
        with torch.no_grad():
            for name, parameter in task.parameters.items():
                state[name].copy_(positive(parameter.detach().double()))
    inputs = task.batches[0][0]
    ones = torch.ones((1, *inputs.shape[1:]), dtype=torch.float64, device=inputs.device)
    flow: Tensors = task.scratch["flow"]
    weights = [state[name] for name in flow]
    with torch.enable_grad():
        with _Gradients({name: state[name] for name in flow}, flow) as into:
            total = functional_call(task.model, state, (ones,)).sum()
        found = torch.autograd.grad(total, weights, allow_unused=True) if total.requires_grad else ()
        into.add(found)
        if not _finite(total):  # then no score that counts is: |θ|·∂R/∂|θ| is at most R
            with _Scaled():
                total = functional_call(task.model, state, (ones,)).sum()
            found = torch.autograd.grad(total, weights, allow_unused=True, materialize_grads=True)
            return dict(zip(flow, found, strict=True))
    return flow


def _finite(total: Tensor) -> bool:
    return bool(total.isfinite())


class _Gradients(Intercept):
    """Writes the weight gradients of linear maps into given memory."""

    def __init__(self, tracked: Tensors, into: Tensors) -> None:
        super().__init__(tracked)
        self._into = into
        self._written: set[str] = set()

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        def write(delta: Tensor, columns: Tensor) -> None:
            """Add δ u to the gradient of `name`: [g, o, p] and [g, p, k]."""
            target = self._into[name].view(delta.shape[0], delta.shape[1], columns.shape[2])
            if name in self._written:
                target.baddbmm_(delta, columns)
            elif len(target) > 1:
                torch.bmm(delta, columns, out=target)
            else:
                torch.mm(delta[0], columns[0], out=target[0])
            self._written.add(name)

        if function is F.conv2d and _small(inputs, weight, options):
            result: Tensor = _Convolution.apply(inputs, weight, options, write)
            return result if bias is None else result + bias.view(-1, 1, 1)

        def sink(inputs: Tensor, gradient: Tensor) -> None:
            if function is F.linear:
                write(
                    gradient.reshape(1, -1, gradient.shape[-1]).transpose(1, 2),
                    inputs.reshape(1, -1, inputs.shape[-1]),
                )
            else:
                columns = patches(inputs, weight, options)[0].transpose(1, 2)  # [g, p, k]
                write(gradient.reshape(columns.shape[0], -1, columns.shape[1]), columns)

        return linear_map(inputs, weight, bias, function, options, sink)

    def add(self, found: Sequence[Tensor | None]) -> None:
        """Add the gradients of uses that were not seen as linear maps; what was not used at all has gradient 0."""
        for index, (name, target) in enumerate(self._into.items()):
            if name not in self._written:
                target.zero_()
            if found and (other := found[index]) is not None:
                target += other


def _small(inputs: Tensor, weight: Tensor, options: Any) -> bool:
    """Whether a convolution is of one image, in one group, and its columns may be kept."""
    one = inputs.dim() == 4 and len(inputs) == 1 and options.get("groups", 1) == 1
    return one and inputs.numel() * math.prod(weight.shape[2:]) <= MANY


class _Convolution(torch.autograd.Function):
    """A convolution of one image as products of matrices; its backward pass hands δ and u to `write`.

    In float64 this is 2 to 3 times as fast as the library's convolution.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, options: Any, write: Any) -> Tensor:
        stride, padding, dilation, _ = conv_geometry(options, weight)
        kernel = weight.shape[2:]
        places = [
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(inputs.shape[2:], kernel, stride, padding, dilation, strict=True)
        ]
        columns = patches(inputs, weight, options)[0, 0]  # [k, p]
        if columns.shape[1] <= FEW:  # a product with few columns is slow if they do not lie in rows
            columns = columns.t().contiguous().t()
        ctx.save_for_backward(columns, weight)
        ctx.write = write
        ctx.fold = partial(
            F.fold,
            output_size=tuple(inputs.shape[2:]),
            kernel_size=tuple(kernel),
            dilation=tuple(dilation),
            padding=tuple(padding),
            stride=tuple(stride),
        )
        matrix = weight.view(len(weight), -1)
        result = matrix @ columns if columns.shape[1] > FEW else (columns.t() @ matrix.t()).t()
        return result.reshape(1, -1, *places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        columns, weight = ctx.saved_tensors
        delta = gradients[0].reshape(len(weight), -1)
        matrix = weight.view(len(weight), -1)
        ctx.write(delta[None], columns.t()[None])
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        onward = matrix.t() @ delta if columns.shape[1] > FEW else (delta.t() @ matrix).t()
        return ctx.fold(onward[None]), None, None, None


_ADD = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
_SCALED_THROUGH = """
    relu relu_ leaky_relu dropout pad max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d mean sum
    flatten view reshape permute transpose squeeze unsqueeze contiguous __getitem__
"""
_HOMOGENEOUS = {  # f(c·x) = c·f(x) for c > 0
    getattr(place, name) for place in (F, torch, Tensor) for name in _SCALED_THROUGH.split() if hasattr(place, name)
}
_ABOUT = {"__get__", "dim", "ndimension", "size", "numel", "stride", "is_floating_point", "is_contiguous"}  # no values
_ROOM = 256  # binary orders of magnitude between a tensor's largest entry and 1


class _Scaled(TorchFunctionMode):
    """Runs a positively homogeneous network with a power of two taken out of every tensor.

    A tensor with the attribute `_exponent` = e stands for 2^e times its entries. Linear maps, sums and eval-mode
    normalisation keep the entries near 1; any other function gets plain numbers. The exponents are constants, so
    every gradient carries the same factor, the one taken out of the output.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if getattr(func, "__name__", "") in _ABOUT:
            return func(*args, **options)
        if func in LINEAR_MAPS:
            inputs, weight, bias, options = split_call(args, options)
            exponent = _exponent(inputs)
            result = func(inputs, weight, None, **options)
            if bias is not None:
                shape = (-1,) if func is F.linear else (-1, *[1] * (result.dim() - 2))
                result = result + bias.view(shape) * _power(-exponent)
            return _near_one(result, exponent)
        if func is F.batch_norm and not (args[5] if len(args) > 5 else options.get("training")):
            names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
            given = dict(zip(names, args, strict=False)) | options
            x, exponent = given["input"], _exponent(given["input"])
            scale = (given["running_var"] + given.get("eps", 1e-5)).rsqrt()
            scale = scale if given.get("weight") is None else scale * given["weight"]
            shift = -given["running_mean"] * scale
            shift = shift if given.get("bias") is None else shift + given["bias"]
            shape = (1, -1, *[1] * (x.dim() - 2))
            return _near_one(x * scale.view(shape) + shift.view(shape) * _power(-exponent), exponent)
        if func in _ADD and all(isinstance(a, Tensor) for a in args[:2]):
            a, b = args[:2]
            exponent = max(_exponent(a), _exponent(b))
            scaled = a * _power(_exponent(a) - exponent) + b * _power(_exponent(b) - exponent)
            return _near_one(scaled, exponent)
        if func in _HOMOGENEOUS and args and isinstance(args[0], Tensor):
            return _marked(func(*args, **options), _exponent(args[0]))
        return func(*(_plain(a) for a in args), **{key: _plain(value) for key, value in options.items()})


def _power(exponent: int) -> float:
    """2^exponent; 0 or infinity where float64 ends."""
    return ldexp(1.0, exponent) if exponent < 1024 else inf


def _exponent(tensor: Tensor) -> int:
    return getattr(tensor, "_exponent", 0)


def _marked(tensor: Tensor, exponent: int) -> Tensor:
    if isinstance(tensor, Tensor):
        tensor._exponent = exponent  # type: ignore[attr-defined]
    return tensor


def _near_one(tensor: Tensor, exponent: int) -> Tensor:
    largest = float(tensor.detach().abs().max())
    if largest == 0 or abs(log2(largest)) < _ROOM:
        return _marked(tensor, exponent)
    shift = floor(log2(largest))
    return _marked(tensor * _power(-shift), exponent + shift)


def _plain(value: Any) -> Any:
    return value * _power(_exponent(value)) if isinstance(value, Tensor) and _exponent(value) else value
