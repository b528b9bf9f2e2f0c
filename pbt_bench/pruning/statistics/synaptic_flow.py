"""Synaptic flow, finite at any depth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import floor, inf, ldexp, log2
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from pbt_bench import native
from pbt_bench.pruning.intercept import (
    LINEAR_MAPS,
    Intercept,
    convolution_backward,
    linear_map,
    patches,
    plain,
    split_call,
)
from pbt_bench.pruning.listed import Listed, convolve, fits
from pbt_bench.pruning.statistics import Task, Tensors, provides


@provides(data=False, rereads=False, synaptic_flow="Tanaka et al. 2020, arXiv:2006.05467, Eq. 3")
def synaptic_flow(task: Task, wanted: Collection[str]) -> dict[str, Tensors]:
    """∂R/∂|θ| with R = Σ f(1; |θ|), all parameters and buffers replaced by their absolute values, in float64.

    The network is in eval mode with its running statistics as they stand; the input is one example of ones.
    Where float64 overflows (hundreds of residual blocks) the result is that up to one common positive factor.
    """
    return {"synaptic_flow": _flow(task, Tensor.abs)}


@provides(data=False, rereads=False, squared_synaptic_flow="Patil and Dovrolis 2021, arXiv:2010.11354, Eq. 8")
def squared_synaptic_flow(task: Task, wanted: Collection[str]) -> dict[str, Tensors]:
    """∂R/∂θ² with R = Σ f(1; θ²), all parameters squared, buffers absolute; otherwise as `synaptic_flow`."""
    return {"squared_synaptic_flow": _flow(task, Tensor.square)}


def _flow(task: Task, positive: Callable[[Tensor], Tensor]) -> Tensors:
    """The gradient of the summed output with respect to the transformed prunable weights, listed ones if so asked."""
    task.require_real_inputs("synaptic flow")
    state: _State | None = task.scratch.get("state")
    if state is None:
        state = task.scratch["state"] = _State(task, positive)
    else:
        state.follow(task)
    inputs = task.batches[0][0]
    ones = torch.ones((1, *inputs.shape[1:]), dtype=torch.float64, device=inputs.device)
    weights = [state.tensors[name] for name in task.parameters]
    with torch.enable_grad():
        with _Gradients(state) as into:
            total = functional_call(task.model, state.tensors, (ones,)).sum()
        found = torch.autograd.grad(total, weights, allow_unused=True) if total.requires_grad else ()
        into.add(found)
        if not _finite(total):  # then no score that counts is: |θ|·∂R/∂|θ| is at most R
            with _Scaled():
                total = functional_call(task.model, state.tensors, (ones,)).sum()
            found = torch.autograd.grad(total, weights, allow_unused=True, materialize_grads=True)
            return {name: state.listed(name, gradient) for name, gradient in zip(task.parameters, found, strict=True)}
    return state.flow


def _finite(total: Tensor) -> bool:
    return bool(total.isfinite())


class _State:
    """What stays in memory from round to round: transformed tensors, and the gradients of the prunable ones.

    To get fresh memory from the system costs more than to compute what goes into it.
    """

    def __init__(self, task: Task, positive: Callable[[Tensor], Tensor]) -> None:
        self._positive = positive
        self.tensors = {name: positive(p.detach().double().contiguous()) for name, p in task.model.named_parameters()}
        for name, buffer in task.model.named_buffers():
            self.tensors[name] = buffer.double().abs() if buffer.is_floating_point() else buffer
        for name in task.parameters:
            self.tensors[name].requires_grad_()
        self._listed = task.listed
        self._list(task)

    @torch.no_grad()
    def follow(self, task: Task) -> None:
        """Prune what the last round pruned; all weights anew if that is not known."""
        for name, parameter in task.parameters.items():
            tensor = self.tensors[name]
            if task.pruned_last is None or task.places_last is None:
                tensor.copy_(self._positive(parameter.detach().double()))
                continue
            native.clear(tensor, task.pruned_last[name])
            self.weights[name].drop(task.places_last[name])
        if task.listed is not self._listed:
            self._listed = task.listed
            self._list(task)

    def _list(self, task: Task) -> None:
        self.weights: dict[str, Listed] = {}
        self.flow: Tensors = {}
        for name in task.parameters:
            weight = self.tensors[name].detach()
            listed = None if self._listed is None else self._listed[name]
            self.weights[name] = Listed(weight, listed)
            self.flow[name] = torch.empty_like(weight) if listed is None else weight.new_empty(len(listed))

    def listed(self, name: str, value: Tensor) -> Tensor:
        """A whole tensor at the listed weights."""
        return value if self._listed is None else value.reshape(-1).index_select(0, self._listed[name])


class _Gradients(Intercept):
    """Writes the weight gradients of linear maps into given memory."""

    def __init__(self, state: _State) -> None:
        super().__init__({name: state.tensors[name] for name in state.flow})
        self._state = state
        self._written: set[str] = set()

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        if not plain(inputs, weight, function, options):
            return function(inputs, weight, bias, **options)  # its gradient is found by `_flow`, and added
        if function is F.conv2d and fits(inputs, weight, options):

            def target() -> tuple[Tensor, bool]:
                add = name in self._written
                self._written.add(name)
                return self._state.flow[name], add

            return convolve(inputs, weight, bias, options, self._state.weights[name], target)

        def sink(inputs: Tensor, gradient: Tensor) -> None:
            if function is F.linear:
                whole = gradient.reshape(-1, gradient.shape[-1]).t() @ inputs.reshape(-1, inputs.shape[-1])
            elif len(inputs) == 1:
                columns = patches(inputs, weight, options)[0].transpose(1, 2)  # [g, p, k]
                whole = gradient.reshape(columns.shape[0], -1, columns.shape[1]) @ columns
            else:
                whole = convolution_backward(gradient, inputs, weight, options, 1)
            target, found = self._state.flow[name], self._state.listed(name, whole.view(weight.shape))
            _ = target.add_(found) if name in self._written else target.copy_(found)
            self._written.add(name)

        return linear_map(inputs, weight, bias, function, options, sink)

    def add(self, found: Sequence[Tensor | None]) -> None:
        """Add the gradients of uses that were not seen as linear maps; what was not used at all has gradient 0."""
        for index, (name, target) in enumerate(self._state.flow.items()):
            if name not in self._written:
                target.zero_()
            if found and (other := found[index]) is not None:
                target += self._state.listed(name, other)


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
