"""Norms of the inputs of layers over the scoring data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pbt_bench.linear_maps import LINEAR_MAPS, TRANSPOSED, Intercept, rows_in
from pbt_bench.pruning.plugins import statistic
from pbt_bench.pruning.task import Task, Tensors


@statistic(
    cite="Sun et al. 2024, arXiv:2306.11695, Eq. 1",
    symbol=r"\Vert x \Vert_2",
    formula=r"\Vert x \Vert_2 = \sqrt{\frac{1}{N} \sum_{i=1}^{N} \sum_{p} x_{ip}^2}",
)
def input_norm(task: Task) -> Tensors:
    """Compute the norm of the number x that a weight multiplies, over all samples i and output positions p.

    The sum of squares is divided by the number of samples.
    """
    with _SquaredInputs(task.parameters) as squares, torch.no_grad():
        for inputs, _ in task.batches:
            task.model(inputs)
    return {name: (total / task.samples).sqrt() for name, total in squares.sums.items()}


class _SquaredInputs(Intercept):
    """Add up the squares of what every weight multiplies."""

    maps = (*LINEAR_MAPS, *TRANSPOSED)

    def __init__(self, tracked: Any) -> None:
        super().__init__(tracked)
        self._tracked = tracked
        self.sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in tracked.items()}

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        with torch.enable_grad():  # the derivative of the sum of a linear map of x² is the sum of x²
            leaf = weight.detach().requires_grad_()
            total = function(inputs.detach().square(), leaf, None, **options).sum()
        self.sums[name][rows_in(self._tracked[name], weight)] += torch.autograd.grad(total, leaf)[0]
        return function(inputs, weight, bias, **options)
