"""Statistics that need no data."""

from __future__ import annotations

import torch

from pbt_bench.pruning.plugins import statistic
from pbt_bench.pruning.task import Task, Tensors


@statistic(cite="the model", data=False, symbol=r"\theta", formula=r"\theta")
def weight(task: Task) -> Tensors:
    """Return the weight; in an iterative method, its value before the first round."""
    return task.weights


@statistic(cite="own random stream", data=False, symbol="u", formula=r"u \;\sim\; \mathcal{U}(0,\, 1)")
def uniform(task: Task) -> Tensors:
    """Draw uniform random numbers in float64, so that no two are equal; the same numbers on every device."""
    generator = task.generator("uniform")
    return {
        name: torch.rand(p.shape, generator=generator, dtype=torch.float64).to(p.device)
        for name, p in task.parameters.items()
    }
