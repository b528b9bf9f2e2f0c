"""Statistics -> scores -> masks for one model state, shared by all methods and sparsities that start from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import msgspec
import torch
from torch import Tensor, nn

from pbt_bench.errors import RequestError, ScoreError
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning.masks import Masks, Ranking, exact_density, pruned_count
from pbt_bench.pruning.preserve import preserved
from pbt_bench.pruning.pruners import Pruner, pruners
from pbt_bench.pruning.statistics import Task, Tensors, compute, statistics
from pbt_bench.spec import Scoring


@dataclass(frozen=True)
class Pruned:
    """Masks, and what they came from."""

    masks: Masks
    zero_scores: dict[str, int]  # exactly-zero scores per layer, first round
    seconds: float  # the statistics passes this method needs (shared ones in full) and its own scores and masks
    rounds: int


class Scorer:
    """Scores of one model on one set of batches. `methods` names who will ask, so that passes can be shared.

    The model comes back bit-identical from every call. Computed statistics and scores are kept.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        scoring: Scoring,
        seed: int,
        methods: Collection[str] = (),
    ) -> None:
        parameters = prunable(model, scoring.prune_classifier)
        if not parameters:
            raise RequestError(f"{type(model).__name__} has no prunable weights (convolutions or linear layers)")
        batches = batches if isinstance(batches, Sequence) else list(batches)
        if not batches:
            raise RequestError("no scoring data: `batches` is empty")
        device = next(iter(parameters.values())).device
        batches = [(inputs.to(device), targets.to(device)) for inputs, targets in batches]
        self.task = Task(model, parameters, batches, scoring, seed)
        self._methods = set(methods)
        self._statistics: dict[str, Tensors] = {}
        self._seconds: dict[str, float] = {}
        self._scores: dict[tuple[str, bool], Tensors] = {}
        self._rankings: dict[tuple[str, str, bool], Ranking] = {}

    def scores(self, method: str, invert: bool = False) -> Tensors:
        """The scores of `method` (of its first round), a tensor per prunable weight; higher is kept."""
        key = (method, invert)
        if key not in self._scores:
            entry = pruners()[method]
            self._prepare(entry)
            self._scores[key] = _evaluate(entry, self._statistics, self.task, invert)
        return self._scores[key]

    def prune(self, method: str, sparsity: float, scope: str = "global", invert: bool = False) -> Pruned:
        """Masks of `method` that keep N - floor(sparsity · N) weights."""
        entry = pruners()[method]
        scope = entry.scope or scope
        rounds = (self.task.scoring.rounds or entry.rounds) if entry.rounds > 1 else 1
        self._prepare(entry)
        start = perf_counter()
        scores = self.scores(method, invert)
        if rounds > 1:
            masks = self._iterate(entry, sparsity, scope, invert, rounds)
        else:
            key = (method, scope, invert)
            if key not in self._rankings:
                self._rankings[key] = Ranking(scores, scope)
            masks = self._rankings[key].masks(sparsity)
        zeros = {name: int((s == 0).sum()) for name, s in scores.items()}
        return Pruned(masks, zeros, self._cost(entry) + perf_counter() - start, rounds)

    def _prepare(self, entry: Pruner) -> None:
        """Compute what `entry` needs, and what other methods will need of the same providers."""
        if self._seconds.keys() >= set(entry.needs):
            return
        providers = {statistics()[name].provider for name in entry.needs}
        others = {name for method in self._methods for name in pruners()[method].needs if name in statistics()}
        wanted = {*entry.needs, *(name for name in others if statistics()[name].provider in providers)}
        wanted -= self._seconds.keys()
        with preserved(self.task.model):
            try:
                computed = compute(self.task, wanted)
            except RequestError:  # perhaps it was another method's wish that cannot be met
                computed = compute(self.task, set(entry.needs) - self._seconds.keys())
        self._statistics |= computed.values
        self._seconds |= computed.seconds

    def _cost(self, entry: Pruner) -> float:
        """Seconds of the passes that `entry` needs, each provider counted once."""
        return sum({statistics()[name].provider: self._seconds[name] for name in entry.needs}.values())

    def _iterate(self, entry: Pruner, sparsity: float, scope: str, invert: bool, rounds: int) -> Masks:
        """Density falls as (1 - sparsity)^(round / rounds); a round prunes floor((1 - that) · N) weights."""
        task = self.task
        total = sum(p.numel() for p in task.parameters.values())
        dense = {name: p.detach().clone() for name, p in task.parameters.items()}
        task = replace(task, dense=dense)
        scores = self.scores(entry.name, invert)
        masks: Masks = {}
        with preserved(task.model):
            for index in range(1, rounds + 1):
                if index > 1:
                    with torch.no_grad():
                        for name, parameter in task.parameters.items():
                            parameter.copy_(dense[name] * masks[name])
                    task = replace(task, round=index, masks=masks)
                    scores = _evaluate(entry, compute(task, entry.needs).values, task, invert)
                    if not entry.regrow:
                        scores = {name: s.masked_fill(~masks[name], -torch.inf) for name, s in scores.items()}
                density = exact_density(sparsity) ** (index / rounds)
                pruned = pruned_count(sparsity, total) if index == rounds else int((1 - density) * total)
                alive = None if entry.regrow or not masks else {n: int(m.sum()) for n, m in masks.items()}
                masks = Ranking(scores, scope).keep(total - pruned, density, alive)
        return masks


def _evaluate(entry: Pruner, values: Mapping[str, Tensors], task: Task, invert: bool) -> Tensors:
    """Call the score function once per tensor, and refuse what cannot be ranked."""
    scores: Tensors = {}
    with torch.no_grad():
        for name, parameter in task.parameters.items():
            score = entry.function(*(values[need][name].clone() for need in entry.needs))  # it may write to them
            where = f"method {entry.name!r}, layer {name!r}"
            if not isinstance(score, Tensor) or score.shape != parameter.shape:
                got = f"shape {list(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
                raise ScoreError(f"{where}: scores have {got}, expected a tensor of shape {list(parameter.shape)}")
            if not bool(torch.isfinite(score).all()):
                bad = int((~torch.isfinite(score)).sum())
                raise ScoreError(f"{where}: {bad} of {score.numel()} scores are NaN or infinite")
            scores[name] = -score if invert else score
    return scores


def resolve(entry: Pruner, scoring: Scoring, protocol: str) -> Scoring:
    """The scoring choices in force: those of the grid, or with protocol "original" those of the published code."""
    return msgspec.structs.replace(scoring, **entry.original) if protocol == "original" else scoring
