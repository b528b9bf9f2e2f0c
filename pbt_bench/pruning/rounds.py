"""Prune in rounds: score the remaining network, prune a part of it, and score again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from pbt_bench.models.prunable import Masks
from pbt_bench.pruning.masks import exact_density, pruned_count
from pbt_bench.pruning.plugins import Pruner
from pbt_bench.pruning.score_functions import evaluate
from pbt_bench.pruning.selection import Selection
from pbt_bench.pruning.statistic_values import compute
from pbt_bench.pruning.task import Batches, Task, Tensors

Schedule = Callable[[float, float], float]  # (final density, share of the rounds done) -> density


def exponential_density(density: float, done: float) -> float:
    """Return density^done, the schedule of Tanaka et al. 2020, Alg. 1."""
    return float(density**done)


def prune_in_rounds(
    entry: Pruner,
    task: Task,
    scores: Tensors,
    sparsity: float,
    select: Selection,
    invert: bool,
    rounds: int,
    schedule: Schedule = exponential_density,
    batches: Callable[[int], Batches] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Masks:
    """Prune in `rounds` rounds, the first of which has the given scores. Call inside `preserved`.

    After round k of n, floor((1 - schedule(1 - sparsity, k/n)) · N) weights are pruned in all; `select` chooses them.
    Every round computes the statistics of the network pruned so far, on the data that `batches` returns for its number
    or on those of the first round. A pruned weight returns only with `entry.regrow`.
    """
    total = sum(p.numel() for p in task.parameters.values())
    density = exact_density(sparsity)
    dense = task.weights
    task = replace(task, unpruned=dense, passes=None)
    masks: Masks = {}
    for index in range(1, rounds + 1):
        now = schedule(density, index / rounds)
        pruned = pruned_count(sparsity, total) if index == rounds else int((1 - now) * total)
        before = None
        if index > 1:
            if batches:
                task = replace(task, batches=batches(index))
            values = {name: each.values for name, each in compute(task, entry.needs, options).items()}
            scores = evaluate(entry, values, task.parameters, invert)
            if not entry.regrow:
                scores = {name: torch.where(masks[name], s, -torch.inf) for name, s in scores.items()}
                before = masks
        masks = select(scores, pruned, before)
        task = replace(task, round=index + 1, masks=masks)
        with torch.no_grad():
            for name, parameter in task.parameters.items():
                parameter.copy_(torch.where(masks[name], dense[name], 0.0))
    return masks
