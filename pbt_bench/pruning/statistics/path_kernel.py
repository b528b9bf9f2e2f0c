"""The derivative of a bound of the trace of the neural tangent kernel (Path eXclusion)."""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from pbt_bench.errors import RequestError
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning import batchnorm
from pbt_bench.pruning.plugins import statistic
from pbt_bench.pruning.task import Task, Tensors

_RECTIFIED_BY = "relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ celu selu gelu silu mish hardswish"
RECTIFIERS = {
    getattr(owner, name) for owner in (F, torch, Tensor) for name in _RECTIFIED_BY.split() if hasattr(owner, name)
}


@statistic(
    cite="Iurada et al. 2024, arXiv:2406.01820",
    symbol=r"\frac{\partial K}{\partial \theta^2}",
    formula=r"K = \sum_i \left\langle f_{a(x_i)}(x_i^2;\, m),\; f_1(\mathbf{1};\, \theta^2) \right\rangle",
)
def path_kernel(task: Task) -> Tensors:
    """Compute ∂K/∂θ², K = Σᵢ ⟨z₁, z₂⟩ over the scoring data, m the mask so far, in float64.

    z₁ is the output for x², with every weight one and every rectifier replaced by the 0 or 1 that it has for x. z₂ is
    the output for ones, with squared weights and rectifiers replaced by the identity. z₁ counts as constant.

    As in the published code, the classifier and the parameters of normalisation keep their values, biases are replaced
    like weights, and both outputs use batch normalisation by the batch; only the rectifiers' pattern follows
    `batchnorm`. A weight of the classifier is not squared, so its derivative is that by θ.
    """
    if not (x := task.batches[0][0]).is_floating_point():
        raise RequestError(f"path_kernel replaces the inputs by real numbers, which cannot be {x.dtype}")
    tensors = {name: p.detach().double() for name, p in task.model.named_parameters()}
    for name, buffer in task.model.named_buffers():
        tensors[name] = buffer.double() if buffer.is_floating_point() else buffer
    squared, ones = dict(tensors), dict(tensors)
    for weight in prunable(task.model, prune_classifier=False):
        bias = re.sub("[qkv]_proj_weight$", "in_proj_weight", weight).removesuffix("weight") + "bias"
        for name in (weight, bias):
            if name in tensors:
                mask = (task.masks or {}).get(name, torch.ones_like(tensors[name]))
                squared[name], ones[name] = tensors[name].square(), mask.double()
    leaves = {name: squared[name].clone().requires_grad_() for name in task.parameters}
    norms = batchnorm.layers(task.model)
    modes = [norm.training for norm in norms]

    def output(values: Tensors, inputs: Tensor, mode: TorchFunctionMode) -> Tensor:
        copies = {name: values[name].clone() for name, _ in task.model.named_buffers()}  # of running statistics
        with mode:
            result: Tensor = functional_call(task.model, values | copies, (inputs,))
        return result

    total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for batch, _ in batchnorm.joined(task.batches):
        x = batch.double()
        pattern: list[Tensor] = []
        with torch.no_grad():
            output(tensors, x, _Rectifiers("record", pattern))
        for norm in norms:
            norm.train()
        with torch.no_grad():
            constant = output(ones, x.square(), _Rectifiers("replay", pattern))
        with torch.enable_grad():
            paths = output(squared | leaves, torch.ones_like(x), _Rectifiers("leave out", pattern))
            kernel = (constant * paths).sum()
            found = torch.autograd.grad(kernel, list(leaves.values()), allow_unused=True, materialize_grads=True)
        for norm, mode in zip(norms, modes, strict=True):
            norm.train(mode)
        for name, gradient in zip(leaves, found, strict=True):
            total[name] += gradient
    return total


class _Rectifiers(TorchFunctionMode):
    """Record the pattern of rectifiers, multiply by a recorded pattern instead, or leave rectifiers out."""

    def __init__(self, use: str, pattern: list[Tensor]) -> None:
        super().__init__()
        self._use, self._pattern = use, pattern

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func not in RECTIFIERS:
            return func(*args, **options)
        inputs = args[0] if args else options["input"]
        if self._use == "record":
            self._pattern.append((inputs > 0).double())
            return func(*args, **options)
        return inputs * self._pattern.pop(0) if self._use == "replay" else inputs
