"""Synaptic flow, finite at any depth."""

from __future__ import annotations

from collections.abc import Callable
from math import floor, inf, ldexp, log2
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from pbt_bench.linear_maps import LINEAR_MAPS, split_call
from pbt_bench.pruning import checks
from pbt_bench.pruning.plugins import statistic
from pbt_bench.pruning.task import Task, Tensors


@statistic(
    cite="Tanaka et al. 2020, arXiv:2006.05467, Eq. 3",
    data=False,
    revision=2,
    symbol=r"\frac{\partial R}{\partial \vert\theta\vert}",
    formula=r"R = \mathbf{1}^\top f(\mathbf{1};\, \vert\theta\vert)",
)
def synaptic_flow(task: Task) -> Tensors:
    """Compute ∂R/∂|θ| with R = Σ f(1; |θ|): all parameters and buffers are replaced by their absolute values.

    Computed in float64, in eval mode with the running statistics as they stand; the input is one example of ones.
    Where the weights change the output but not its sum R, as behind a final softmax, the result is zero.
    Where R overflows float64 (hundreds of residual blocks), the result is ∂R/∂|θ| up to one common positive factor.
    """
    return _flow(task, lambda parameter: parameter.abs().double())


@statistic(
    cite="Gebhart et al. 2021, arXiv:2101.10552",
    data=False,
    revision=2,
    symbol=r"\frac{\partial R}{\partial \theta^2}",
    formula=r"R = \mathbf{1}^\top f(\mathbf{1};\, \theta^2)",
)
def squared_synaptic_flow(task: Task) -> Tensors:
    """Compute ∂R/∂θ² with R = Σ f(1; θ²): parameters are squared, buffers absolute; otherwise as `synaptic_flow`."""
    return _flow(task, lambda parameter: parameter.double().square())


def _flow(task: Task, positive: Callable[[Tensor], Tensor]) -> Tensors:
    """Compute the gradient of the summed output with respect to the prunable weights after `positive`."""
    checks.require_real_inputs(task, "synaptic flow")
    tensors = {name: positive(p.detach()).contiguous() for name, p in task.model.named_parameters()}
    for name, buffer in task.model.named_buffers():
        tensors[name] = buffer.double().abs() if buffer.is_floating_point() else buffer
    weights = [tensors[name].requires_grad_() for name in task.parameters]
    inputs = task.batches[0][0]
    ones = torch.ones((1, *inputs.shape[1:]), dtype=torch.float64, device=inputs.device)
    with torch.enable_grad():
        output = functional_call(task.model, tensors, (ones,))
        total = output.sum()
        if not (finite := _finite(total)):
            with _Scaled():
                total = functional_call(task.model, tensors, (ones,)).sum()
        if not total.requires_grad:
            return _zeros(task)
        found = torch.autograd.grad(total, weights, allow_unused=True, materialize_grads=True)
    if finite and task.round == 1:
        flow = sum(float((w.detach() * g).abs().sum()) for w, g in zip(weights, found, strict=True))
        if flow < _ROUNDING * float(output.detach().abs().sum()):  # or the weights matter little beside the biases
            with torch.no_grad():
                change = float((functional_call(task.model, tensors | _zeros(task), (ones,)) - output).abs().sum())
            if flow < _ROUNDING * change:
                return _zeros(task)
    return dict(zip(task.parameters, found, strict=True))


# Of what all weights together change in the output: the gradients of a constant sum are rounding errors of 1e-16, times
# a few orders of magnitude for large logits.
_ROUNDING = 1e-12


def _zeros(task: Task) -> Tensors:
    return {name: torch.zeros_like(p, dtype=torch.float64) for name, p in task.parameters.items()}


def _finite(total: Tensor) -> bool:
    return bool(total.isfinite())


_ADD = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
_SCALED_THROUGH = """
    relu relu_ leaky_relu dropout pad max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d mean sum
    flatten view reshape permute transpose squeeze unsqueeze contiguous __getitem__
"""
_HOMOGENEOUS = {  # f(c·x) = c·f(x) for c > 0
    getattr(owner, name) for owner in (F, torch, Tensor) for name in _SCALED_THROUGH.split() if hasattr(owner, name)
}
_ABOUT = {"__get__", "dim", "ndimension", "size", "numel", "stride", "is_floating_point", "is_contiguous"}  # no values
_MOST_ORDERS = 256  # binary orders of magnitude between a tensor's largest entry and 1


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
    if largest == 0 or abs(log2(largest)) < _MOST_ORDERS:
        return _marked(tensor, exponent)
    shift = floor(log2(largest))
    return _marked(tensor * _power(-shift), exponent + shift)


def _plain(value: Any) -> Any:
    return value * _power(_exponent(value)) if isinstance(value, Tensor) and _exponent(value) else value
