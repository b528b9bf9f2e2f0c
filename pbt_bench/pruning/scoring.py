"""Scores and masks of one model state, with statistics that all methods and sparsities share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from types import MappingProxyType
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from pbt_bench.errors import RequestError, ScoreError, note_once, shortened
from pbt_bench.models.model_state import preserved
from pbt_bench.models.prunable import Masks, packed_projections
from pbt_bench.pattern_names import parse
from pbt_bench.pruning.checks import checked_task, joined_batches
from pbt_bench.pruning.masks import Ranking, pruned_count
from pbt_bench.pruning.plugins import Method, Pruner, find_pruner, pruners, statistics
from pbt_bench.pruning.rounds import prune_in_rounds
from pbt_bench.pruning.score_functions import evaluate
from pbt_bench.pruning.selection import selection
from pbt_bench.pruning.statistic_values import Measured, compute
from pbt_bench.pruning.task import Batches, PassResults, Start, Task, Tensors
from pbt_bench.spec import RunSpec, Scoring

Options = Mapping[str, Any]
NO_OPTIONS: Options = MappingProxyType({})
Key = tuple[object, ...]


@dataclass(frozen=True)
class Pruned:
    """Masks, with the zero scores, rounds and seconds behind them."""

    masks: Masks
    zero_scores: dict[str, int]  # exactly-zero scores per layer, first round
    seconds: float  # of the statistics that this method needs, shared passes in full, and of its scores and masks
    rounds: int
    notes: dict[str, dict[str, float]] = field(default_factory=dict)  # statistic -> its measurements
    start: Start | None = None  # of the training of the run; None: the scored weights at step 0


class Scorer:
    """Scores of one model on one set of batches, for any number of methods and sparsities.

    The model comes back bit-identical from every call. Statistics, passes and scores are computed once.
    `draw` returns the batches of a later round of an iterative method; without it every round has the same.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        scoring: Scoring,
        seed: int,
        draw: Callable[[int], Batches] | None = None,
    ) -> None:
        self.task = replace(checked_task(model, batches, scoring, seed), passes=PassResults())
        self._draw = draw
        self._measured: dict[Key, Measured] = {}
        self._scores: dict[Key, Tensors] = {}
        self._rankings: dict[Key, Ranking] = {}

    def scores(self, method: Method, invert: bool = False, options: Options = NO_OPTIONS) -> Tensors:
        """Return the scores of `method` (of its first round), a tensor per layer; higher is kept.

        Raises RequestError if the method depends on the sparsity.
        """
        entry = find_pruner(method)
        for name in entry.needs:
            if statistics()[name].per_sparsity:
                raise RequestError(f"method {entry.name!r} has no scores without a sparsity: {name} depends on it")
        return self._evaluated(entry, self.task, invert, options)

    def prune(
        self,
        method: Method,
        sparsity: float,
        scope: str = "global",
        invert: bool = False,
        options: Options = NO_OPTIONS,
        pattern: str = "none",
    ) -> Pruned:
        """Return masks of `method` that keep N - floor(sparsity · N) weights, or the number that the pattern defines.

        Raises ScoreError if the method returns masks that keep another number, RequestError for a scope or a sparsity
        that the pattern cannot have.
        """
        entry = find_pruner(method)
        scope = entry.in_scope(scope)
        if shape := parse(pattern):
            shape.check(sparsity)
            if scope != "global":
                raise RequestError(
                    f"scope = {scope!r} cannot be combined with pattern = {pattern!r}: leave it 'global'"
                )
        total = sum(p.numel() for p in self.task.parameters.values())
        task = replace(self.task, sparsity=sparsity, kept=total - pruned_count(sparsity, total))
        measured = self._statistics(entry, task, options)
        start = perf_counter()
        scores = self._evaluated(entry, task, invert, options)
        rounds = (self.task.scoring.rounds or entry.rounds) if entry.rounds > 1 else 1
        select = selection(task, scope, pattern)
        if _are_masks(scores):
            masks = _checked_masks(entry.name, scores, task, scope, pattern)
        elif rounds > 1:
            with preserved(self.task.model):
                masks = prune_in_rounds(
                    entry.bound(options), task, scores, sparsity, select, invert, rounds,
                    batches=self._later_batches, options=options,
                )  # fmt: skip
        elif shape:
            masks = select(scores, pruned_count(sparsity, total), None)
        else:
            key = (self._key(entry.name, entry.needs, task, options), scope, invert)
            if key not in self._rankings:
                self._rankings[key] = Ranking(scores, scope, packed=packed_projections(task.model))
            masks = self._rankings[key].masks(sparsity)
        zeros = {name: 0 if _are_masks(scores) else int((s == 0).sum()) for name, s in scores.items()}
        notes = {name: dict(each.notes) for name, each in measured.items() if each.notes}
        passes: dict[str, float] = {}
        for each in measured.values():
            passes |= each.passes
        shared = sum(each.seconds for each in measured.values()) + sum(passes.values())
        begin = next((each.start for each in measured.values() if each.start), None)
        return Pruned(masks, zeros, shared + perf_counter() - start, rounds, notes, begin)

    def _later_batches(self, number: int) -> Batches:
        if self._draw is None:
            return self.task.batches
        return joined_batches(self.task.model, self._draw(number), self.task.scoring)[0]

    def _key(self, name: str, needs: Iterable[str], task: Task, options: Options) -> Key:
        """Return a key of everything that the statistics `needs` depend on, with the name of what is made of them."""
        per_sparsity = any(statistics()[need].per_sparsity for need in needs)
        return (name, tuple(sorted(options.items())), task.sparsity if per_sparsity else None)

    def _statistics(self, entry: Pruner, task: Task, options: Options) -> dict[str, Measured]:
        """Return the statistics of `entry`; those that are not there yet are computed."""
        keys = {}
        for name in entry.needs:
            own = {option: value for option, value in options.items() if option in statistics()[name].options}
            keys[name] = self._key(name, [name], task, own)
        if missing := [name for name, key in keys.items() if key not in self._measured]:
            with preserved(task.model):
                computed = compute(task, missing, options)
            self._measured |= {keys[name]: each for name, each in computed.items()}
        return {name: self._measured[key] for name, key in keys.items()}

    def _evaluated(self, entry: Pruner, task: Task, invert: bool, options: Options) -> Tensors:
        key = (self._key(entry.name, entry.needs, task, options), invert)
        if key not in self._scores:
            values = {name: each.values for name, each in self._statistics(entry, task, options).items()}
            scores = evaluate(entry.bound(options), values, task.parameters, invert)
            if not _are_masks(scores):
                _report_zeros(entry.name, scores, task.parameters)
            self._scores[key] = scores
        return self._scores[key]


def _are_masks(scores: Tensors) -> bool:
    return next(iter(scores.values())).dtype == torch.bool


def _checked_masks(method: str, masks: Masks, task: Task, scope: str, pattern: str) -> Masks:
    """Return the masks of a method that searches them. Raises ScoreError unless they keep the requested number."""
    if scope != "global" or pattern != "none":
        wrong = f"scope = {scope!r}" if scope != "global" else f"pattern = {pattern!r}"
        raise RequestError(f"{wrong} changes nothing for method {method!r}: it returns masks")
    kept, expected = sum(int(mask.sum()) for mask in masks.values()), task.kept
    if kept != expected:
        raise ScoreError(
            f"method {method!r}: its masks keep {kept} weights, not the {expected} of sparsity {task.sparsity:g}"
        )
    return masks


def _report_zeros(method: str, scores: Tensors, parameters: Mapping[str, Tensor]) -> None:
    """Print a note for layers whose scores are all exactly zero. Raises ScoreError if the scores of all layers are."""
    zero = [name for name, score in scores.items() if not bool(score.any())]
    why = {True: "no gradient reaches it", False: "its weights are all zero"}
    layers = shortened([f"{name} ({why[bool(parameters[name].any())]})" for name in zero])
    if len(zero) == len(scores):
        raise ScoreError(f"method {method!r}: every score is exactly zero, so nothing ranks the weights: {layers}")
    if zero:
        note_once(f"method {method!r} scores every weight of a layer exactly zero, so position decides there: {layers}")


def resolve(method: str, spec: RunSpec) -> tuple[Scoring, Options]:
    """Return scoring and options of `method` in a run: the grid's, or the published code's if protocol is "original".

    The published code decides every field but `chunk`, which changes no number, and `prune_classifier`, which
    stays the grid's unless the method's `original` sets it.
    """
    if spec.protocol != "original":
        return spec.scoring, spec.options
    entry = pruners()[method]
    plain = Scoring(prune_classifier=spec.scoring.prune_classifier, chunk=spec.scoring.chunk)
    values = entry.published(spec.dataset)
    fields = {name: value for name, value in values.items() if name in Scoring.__struct_fields__}
    options = {name: value for name, value in values.items() if name not in fields}
    if options:
        options = entry.checked_options(options, f"{entry.file}: original")
    return msgspec.structs.replace(plain, **fields), options
