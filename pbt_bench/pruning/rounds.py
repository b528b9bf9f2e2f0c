"""Score functions -> scores -> masks in rounds: score what is left, prune a little, score again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pbt_bench import native
from pbt_bench.errors import ScoreError
from pbt_bench.pruning.listed import true
from pbt_bench.pruning.masks import Masks, Ranking, exact_density, pruned_count
from pbt_bench.pruning.pruners import Pruner
from pbt_bench.pruning.statistics import Task, Tensors, compute, statistics

FIXED = ("weight",)  # statistics that no round changes
RELIST = 0.85  # share of kept weights in a list of weights at which it is made anew
SAMPLE = 20_000  # scores that are looked at to guess between which values a round's threshold is


def evaluate(entry: Pruner, values: Mapping[str, Tensors], parameters: Mapping[str, Tensor], invert: bool) -> Tensors:
    """The score function called once per tensor, on copies. Raises ScoreError for what cannot be ranked."""
    return {
        name: _score(entry, name, [values[need][name].clone() for need in entry.needs], invert, copied=True)
        for name in parameters
    }


def _score(entry: Pruner, name: str, arguments: Sequence[Tensor], invert: bool, copied: bool = False) -> Tensor:
    shape = arguments[0].shape
    versions = [argument._version for argument in arguments]
    with torch.no_grad():
        score = entry.function(*arguments)
        where = f"method {entry.name!r}, layer {name!r}"
        if not copied and [argument._version for argument in arguments] != versions:
            raise ScoreError(f"{where}: an iterative method must not change its arguments")
        if not isinstance(score, Tensor) or score.shape != shape:
            got = f"shape {list(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
            raise ScoreError(f"{where}: scores have {got}, expected a tensor of shape {list(shape)}")
        if score.layout != torch.strided or score.device != arguments[0].device:
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
    """Masks after `rounds` rounds, the first of which has the given scores. Call inside `preserved`.

    The density falls as (1 - sparsity)^(round / rounds), and a round leaves floor((1 - that) · N) weights pruned
    in all (Tanaka et al. 2020, Alg. 1). In every round the statistics are those of the network pruned so far.
    The score function of an `elementwise` method is given vectors of some weights of a tensor, unless
    `entry.regrow` or the scope is not global; any other function is given whole tensors.
    """
    total = sum(p.numel() for p in task.parameters.values())
    density = exact_density(sparsity)
    dense = {name: p.detach().clone() for name, p in task.parameters.items()}
    task = replace(task, dense=dense, scratch={})
    lowest = entry.elementwise and not entry.regrow and scope == "global"
    prune = _PruneLowest(entry, scores, invert) if lowest else _RankAll(entry, scores, invert, scope)
    for index in range(1, rounds + 1):
        now = density ** (index / rounds)
        pruned = pruned_count(sparsity, total) if index == rounds else int((1 - now) * total)
        if index > 1:
            prune.score(compute(task, entry.needs).values)
        gone = prune.until(pruned, now)
        task = replace(
            task, round=index + 1, masks=prune.masks, pruned_last=gone, places_last=prune.last, listed=prune.listed
        )
        if index > 1 and gone is not None and not any(statistics()[need].rereads for need in entry.needs):
            continue  # what was pruned is all that anybody wants to know
        with torch.no_grad():
            for name, parameter in task.parameters.items():
                if gone is not None and parameter.is_contiguous():
                    native.clear(parameter.detach(), gone[name])
                else:
                    parameter.copy_(dense[name] * prune.masks[name])
    return prune.masks


class _RankAll:
    """Rounds by a ranking of all weights: for every scope, and for pruned weights that may return."""

    listed = last = None

    def __init__(self, entry: Pruner, scores: Tensors, invert: bool, scope: str) -> None:
        self._entry, self._scores, self._invert, self._scope = entry, scores, invert, scope
        self.masks: Masks = {}

    def score(self, values: Mapping[str, Tensors]) -> None:
        """The score function called once per tensor."""
        self._scores = evaluate(self._entry, values, self.masks, self._invert)

    def until(self, pruned: int, density: float) -> None:
        """Prune until `pruned` weights are pruned in all."""
        scores = self._scores
        alive = None
        if self.masks and not self._entry.regrow:
            scores = {name: s.masked_fill(~self.masks[name], -torch.inf) for name, s in scores.items()}
            alive = {name: int(mask.sum()) for name, mask in self.masks.items()}
        total = sum(s.numel() for s in scores.values())
        self.masks = Ranking(scores, self._scope).keep(total - pruned, density, alive)


class _PruneLowest:
    """Rounds that prune the lowest scores of all layers together, for good; work falls with the weights that are left.

    Equal scores are pruned in the order of the weights. Of every layer a list of flat indices is scored: the kept
    weights, and among them a few that are gone already, until it pays to make the list anew.
    """

    def __init__(self, entry: Pruner, scores: Tensors, invert: bool) -> None:
        self._entry, self._invert = entry, invert
        self._scores = {name: s.reshape(-1) for name, s in scores.items()}
        self.masks = {name: torch.ones(s.shape, dtype=torch.bool, device=s.device) for name, s in scores.items()}
        self._here = {name: mask.view(-1).clone() for name, mask in self.masks.items()}  # of the listed: not pruned
        self.listed: Tensors | None = None  # flat indices, ascending; None = all
        self._gathered: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        self._pruned = 0
        self.last: Tensors = {}  # places in the list of what the last round pruned

    def score(self, values: Mapping[str, Tensors]) -> None:
        """Score the listed weights by these statistics."""
        for name in self.masks:
            arguments = [self._at(values[need][name], need, name) for need in self._entry.needs]
            self._scores[name] = _score(self._entry, name, arguments, self._invert)

    def _at(self, value: Tensor, need: str, name: str) -> Tensor:
        """A statistic at the listed weights; one that is the same tensor as in the last round is not gathered again."""
        if self.listed is None or value.dim() == 1:
            return value.reshape(-1)
        before, gathered = self._gathered.get((need, name), (None, value))
        if before is not value or need not in FIXED:
            gathered = value.reshape(-1).index_select(0, self.listed[name])
            self._gathered[need, name] = (value, gathered)
        return gathered

    def until(self, pruned: int, density: float) -> Tensors:
        """Prune until `pruned` weights are pruned in all; returns the flat indices of those that went."""
        lowest = _lowest(list(self._scores.values()), list(self._here.values()), pruned - self._pruned)
        self._pruned = pruned
        gone = {}
        self.last = dict(zip(self._here, lowest, strict=True))
        for name, low in self.last.items():
            gone[name] = low if self.listed is None else self.listed[name].index_select(0, low)
            native.clear(self._here[name], low)
            native.clear(self.masks[name], gone[name])
        total = sum(mask.numel() for mask in self.masks.values())
        if total - pruned < RELIST * sum(here.numel() for here in self._here.values()):
            self._list()
        return gone

    def _list(self) -> None:
        self._gathered.clear()
        kept = {name: true(here) for name, here in self._here.items()}
        if self.listed is not None:
            kept = {name: self.listed[name].index_select(0, index) for name, index in kept.items()}
        self.listed = kept
        self._here = {
            name: torch.ones(len(index), dtype=torch.bool, device=index.device) for name, index in kept.items()
        }


def _lowest(scores: Sequence[Tensor], here: Sequence[Tensor], count: int) -> list[Tensor]:
    """Ascending indices of the `count` lowest of all scores together that are `here`, the first of equals."""
    if count == 0:
        return [torch.empty(0, dtype=torch.long, device=h.device) for h in here]
    stride = max(1, sum(map(len, scores)) // SAMPLE)
    sample = torch.cat([s[::stride][h[::stride]] for s, h in zip(scores, here, strict=True)])
    about, error = count / stride, 0.1 * count / stride + 0.004 * len(sample)
    floor, guess = _guess(sample, about - error), _guess(sample, about + error)
    found = [_at_most(s, guess, h) for s, h in zip(scores, here, strict=True)]
    if sum(len(places) for places, _ in found) < count:
        found = [_at_most(s, torch.inf, h) for s, h in zip(scores, here, strict=True)]
    values = torch.cat([values for _, values in found])
    upper = values.index_select(0, true(values >= floor))
    first = len(values) - len(upper)
    threshold = _smallest(upper, count - 1 - first) if first < count else _smallest(values, count - 1)
    marks = [values < threshold for _, values in found]
    ties = count - int(torch.stack([mark.sum() for mark in marks]).sum())
    for (_, values), mark in zip(found, marks, strict=True):
        equal = (values == threshold).nonzero().flatten()[:ties]
        mark[equal] = True
        ties -= len(equal)
    return [places.index_select(0, true(mark)) for (places, _), mark in zip(found, marks, strict=True)]


def _at_most(scores: Tensor, limit: float, here: Tensor) -> tuple[Tensor, Tensor]:
    """(ascending indices, scores) of those ≤ `limit` that are `here`."""
    if native.takes(scores) and scores.is_contiguous():
        size, threads = len(scores), torch.get_num_threads()
        counts, places = (torch.empty(length, dtype=torch.long) for length in (threads, size))
        values = torch.empty_like(scores)
        tensors = (counts, places, values, scores, here, scores.new_tensor([limit]))
        native.call("at_most", scores.dtype, tensors, size, threads)
        starts = [size * part // threads for part in range(threads)]
        found = [slice(start, start + count) for start, count in zip(starts, counts.tolist(), strict=True)]
        return torch.cat([places[part] for part in found]), torch.cat([values[part] for part in found])
    low = true((scores <= limit) & here)
    return low, scores.index_select(0, low)


def _guess(sample: Tensor, position: float) -> float:
    """The value at about a position of the ascending order; infinite beyond the sample."""
    if position < 0:
        return -torch.inf
    return _smallest(sample, int(position)) if position < len(sample) else torch.inf


def _smallest(values: Tensor, position: int) -> float:
    """The value at a position of the ascending order. NumPy partitions ten times faster than torch.kthvalue."""
    return float(np.partition(values.numpy(force=True), position)[position])
