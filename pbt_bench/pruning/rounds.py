"""Prune in rounds: score the remaining network, prune a part of it, and score again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from pbt_bench.models.prunable import Masks
from pbt_bench.pruning.masks import Ranking, exact_density, pruned_count
from pbt_bench.pruning.pruners import Pruner
from pbt_bench.pruning.score_functions import evaluate
from pbt_bench.pruning.statistics import Task, Tensors, compute

Schedule = Callable[[float, float], float]  # (final density, share of the rounds done) -> density


def exponential_density(density: float, done: float) -> float:
    """Return density^done, the schedule of Tanaka et al. 2020, Alg. 1."""
    return float(density**done)


def prune_in_rounds(
    entry: Pruner,
    task: Task,
    scores: Tensors,
    sparsity: float,
    scope: str,
    invert: bool,
    rounds: int,
    schedule: Schedule = exponential_density,
) -> Masks:
    """Prune in `rounds` rounds, the first of which has the given scores. Call inside `preserved`.

    After round k of n, floor((1 - schedule(1 - sparsity, k/n)) · N) weights are pruned in all.
    Every round computes the statistics of the network pruned so far. A pruned weight returns only with `entry.regrow`.
    """
    total = sum(p.numel() for p in task.parameters.values())
    density = exact_density(sparsity)
    dense = {name: p.detach().clone() for name, p in task.parameters.items()}
    task = replace(task, dense=dense)
    masks: Masks = {}
    for index in range(1, rounds + 1):
        now = schedule(density, index / rounds)
        pruned = pruned_count(sparsity, total) if index == rounds else int((1 - now) * total)
        alive = None
        if index > 1:
            scores = evaluate(entry, compute(task, entry.needs).values, task.parameters, invert)
            if not entry.regrow:
                scores = {name: torch.where(masks[name], s, -torch.inf) for name, s in scores.items()}
                alive = {name: int(mask.count_nonzero()) for name, mask in masks.items()}
        masks = Ranking(scores, scope, once=True).keep(total - pruned, now, alive)
        task = replace(task, round=index + 1, masks=masks)
        with torch.no_grad():
            for name, parameter in task.parameters.items():
                parameter.copy_(torch.where(masks[name], dense[name], 0.0))
    return masks
