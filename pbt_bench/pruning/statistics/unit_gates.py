"""The sensitivity of the loss to gates on the output channels of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pbt_bench.linear_maps import LINEAR_MAPS, TRANSPOSED, Intercept, rows_in
from pbt_bench.pruning.patterns import transposed_groups
from pbt_bench.pruning.plugins import statistic
from pbt_bench.pruning.task import Task, Tensors


@statistic(
    cite="Verdenius et al. 2020, arXiv:2006.00896",
    symbol=r"\frac{\vert\partial L / \partial c\vert}{n}",
    formula=r"L(c) = \frac{1}{N} \sum_i \ell(f(x_i;\, c), y_i), \qquad a_j(c) = c_j \left(\theta_j x + b_j\right)",
)
def unit_sensitivity(task: Task) -> Tensors:
    """Compute |∂L/∂c| / n, with c = 1 a factor on the weight's output channel and n the weights of the channel.

    L is the mean cross-entropy of logits / `loss_temperature`. The gate multiplies weights and bias.
    """
    transposed = transposed_groups(task.model)
    gates = {}
    for name, weight in task.parameters.items():
        count = weight.shape[1] * transposed[name] if name in transposed else len(weight)
        gates[name] = weight.new_ones(count).requires_grad_()
    total = {name: torch.zeros_like(gate) for name, gate in gates.items()}
    for inputs, targets in task.batches:
        with torch.enable_grad(), _Gated(task.parameters, gates):
            logits = task.model(inputs) / task.scoring.loss_temperature
            loss = F.cross_entropy(logits, targets, reduction="sum") / task.samples
            found = torch.autograd.grad(loss, list(gates.values()), allow_unused=True, materialize_grads=True)
        for name, gradient in zip(gates, found, strict=True):
            total[name] += gradient
    result = {}
    for name, weight in task.parameters.items():
        groups = transposed.get(name, len(weight))  # channels of a plain layer are groups of one output
        channels = total[name].abs().view(groups, 1, -1) * len(total[name]) / weight.numel()
        spread = channels.expand(-1, len(weight) // groups, -1).reshape(len(weight), -1, *[1] * (weight.dim() - 2))
        result[name] = spread.expand(weight.shape).contiguous()
    return result


class _Gated(Intercept):
    """Multiply the output channels of every layer by its gates."""

    maps = (*LINEAR_MAPS, *TRANSPOSED)

    def __init__(self, tracked: Mapping[str, Tensor], gates: Tensors) -> None:
        super().__init__(tracked)
        self._tracked = tracked
        self._gates = gates

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        dims = 0 if function is F.linear else weight.dim() - 2
        gates = self._gates[name][rows_in(self._tracked[name], weight)]
        return function(inputs, weight, bias, **options) * gates.view(-1, *[1] * dims)
