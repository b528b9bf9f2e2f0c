"""Score functions -> scores -> masks in rounds: score what is left, prune a little, score again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pbt_bench.errors import ScoreError
from pbt_bench.models.prunable import Masks
from pbt_bench.pruning.masks import Ranking, exact_density, pruned_count
from pbt_bench.pruning.pruners import Pruner
from pbt_bench.pruning.statistics import Task, Tensors, compute


def evaluate(entry: Pruner, values: Mapping[str, Tensors], parameters: Mapping[str, Tensor], invert: bool) -> Tensors:
    """Call the score function once per tensor. Raises ScoreError for scores that cannot be ranked.

    A one-shot method gets copies; copies in every round would be slow, so an iterative one must not change them.
    """
    return {name: _score(entry, name, [values[need][name] for need in entry.needs], invert) for name in parameters}


def _score(entry: Pruner, name: str, arguments: Sequence[Tensor], invert: bool) -> Tensor:
    shape, device = arguments[0].shape, arguments[0].device
    where = f"method {entry.name!r}, layer {name!r}"
    if entry.rounds == 1:
        arguments = [argument.clone() for argument in arguments]
    versions = [argument._version for argument in arguments]
    with torch.no_grad():
        score = entry.function(*arguments)
        if entry.rounds > 1 and [argument._version for argument in arguments] != versions:
            raise ScoreError(f"{where}: an iterative method must not change its arguments")
        if not isinstance(score, Tensor) or score.shape != shape:
            got = f"shape {list(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
            raise ScoreError(f"{where}: scores have {got}, expected a tensor of shape {list(shape)}")
        if score.layout != torch.strided or score.device != device:
            raise ScoreError(f"{where}: scores are {score.layout} on {score.device}, expected a dense tensor")
        if score.is_complex():
            raise ScoreError(f"{where}: scores have {score.dtype}, expected real numbers")
        if not bool(score.sum().isfinite()):  # the sum is much faster to test than every score
            bad = int((~score.isfinite()).sum())
            if bad:
                raise ScoreError(f"{where}: {bad} of {score.numel()} scores are NaN or infinite")
        return -score if invert else score


def prune_in_rounds(
    entry: Pruner, task: Task, scores: Tensors, sparsity: float, scope: str, invert: bool, rounds: int
) -> Masks:
    """Prune in `rounds` rounds, the first of which has the given scores. Call inside `preserved`.

    After round k of n, floor((1 - (1 - sparsity)^(k/n)) · N) weights are pruned in all (Tanaka et al. 2020, Alg. 1).
    Every round computes the statistics of the network pruned so far. A pruned weight returns only with `entry.regrow`.
    """
    total = sum(p.numel() for p in task.parameters.values())
    density = exact_density(sparsity)
    dense = {name: p.detach().clone() for name, p in task.parameters.items()}
    task = replace(task, dense=dense)
    masks: Masks = {}
    for index in range(1, rounds + 1):
        now = density ** (index / rounds)
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
