"""Statistics that need no data."""

from __future__ import annotations

from collections.abc import Collection

import torch

from pbt_bench.pruning.statistics import Task, Tensors, provides
from pbt_bench.seeds import stream


@provides(data=False, weight="the model")
def weight(task: Task, wanted: Collection[str]) -> dict[str, Tensors]:
    """θ, the weight itself; in the rounds of an iterative method its value before any was pruned."""
    if task.dense is not None:
        return {"weight": dict(task.dense)}
    return {"weight": {name: w.detach().clone() for name, w in task.parameters.items()}}


@provides(data=False, uniform="own random stream")
def uniform(task: Task, wanted: Collection[str]) -> dict[str, Tensors]:
    """u ~ U(0, 1) in float64, so that ties do not happen; the same numbers on every device."""
    generator = stream(task.seed, "uniform", task.round)
    return {
        "uniform": {
            name: torch.rand(p.shape, generator=generator, dtype=torch.float64).to(p.device)
            for name, p in task.parameters.items()
        }
    }
