"""Scores and masks of one model state, with statistics that all methods and sparsities share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter

import msgspec
from torch import Tensor, nn

from pbt_bench.errors import ScoreError, note_once, shortened
from pbt_bench.models.model_state import preserved
from pbt_bench.models.prunable import Masks
from pbt_bench.pruning.checks import Batches, checked_task, joined_batches
from pbt_bench.pruning.masks import Ranking
from pbt_bench.pruning.pruners import Pruner, pruners
from pbt_bench.pruning.rounds import prune_in_rounds
from pbt_bench.pruning.score_functions import evaluate
from pbt_bench.pruning.statistic_values import Computed, compute
from pbt_bench.pruning.task import PassResults, Tensors
from pbt_bench.spec import RunSpec, Scoring


@dataclass(frozen=True)
class Pruned:
    """Masks, with the zero scores, rounds and seconds behind them."""

    masks: Masks
    zero_scores: dict[str, int]  # exactly-zero scores per layer, first round
    seconds: float  # of the statistics that this method needs, shared passes in full, and of its scores and masks
    rounds: int
    notes: dict[str, dict[str, float]] = field(default_factory=dict)  # statistic -> its measurements


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
        self._computed = Computed({}, {}, {})
        self._scores: dict[tuple[str, bool], Tensors] = {}
        self._rankings: dict[tuple[str, str, bool], Ranking] = {}

    def scores(self, method: str, invert: bool = False) -> Tensors:
        """Return the scores of `method` (of its first round), a tensor per layer; higher is kept."""
        key = (method, invert)
        if key not in self._scores:
            entry = pruners()[method].bound(self.task.scoring)
            self._prepare(entry)
            scores = evaluate(entry, self._computed.values, self.task.parameters, invert)
            _report_zeros(entry.name, scores, self.task.parameters)
            self._scores[key] = scores
        return self._scores[key]

    def prune(self, method: str, sparsity: float, scope: str = "global", invert: bool = False) -> Pruned:
        """Return masks of `method` that keep N - floor(sparsity · N) weights."""
        entry = pruners()[method].bound(self.task.scoring)
        scope = entry.in_scope(scope)
        rounds = (self.task.scoring.rounds or entry.rounds) if entry.rounds > 1 else 1
        self._prepare(entry)
        start = perf_counter()
        scores = self.scores(method, invert)
        if rounds > 1:
            with preserved(self.task.model):
                masks = prune_in_rounds(
                    entry, self.task, scores, sparsity, scope, invert, rounds, batches=self._later_batches
                )
        else:
            key = (method, scope, invert)
            if key not in self._rankings:
                self._rankings[key] = Ranking(scores, scope)
            masks = self._rankings[key].masks(sparsity)
        zeros = {name: int((s == 0).sum()) for name, s in scores.items()}
        notes = {name: self.task.notes[name] for name in entry.needs if name in self.task.notes}
        return Pruned(masks, zeros, self._cost(entry) + perf_counter() - start, rounds, notes)

    def _later_batches(self, number: int) -> Batches:
        if self._draw is None:
            return self.task.batches
        return joined_batches(self.task.model, self._draw(number), self.task.scoring)[0]

    def _prepare(self, entry: Pruner) -> None:
        """Compute the statistics of `entry` that are not there yet."""
        if missing := set(entry.needs) - self._computed.values.keys():
            with preserved(self.task.model):
                self._computed.update(compute(self.task, missing))

    def _cost(self, entry: Pruner) -> float:
        """Return the seconds of the statistics and passes that `entry` needs, each pass counted once."""
        passes: dict[str, float] = {}
        for name in entry.needs:
            passes |= self._computed.passes[name]
        return sum(self._computed.seconds[name] for name in entry.needs) + sum(passes.values())


def _report_zeros(method: str, scores: Tensors, parameters: Mapping[str, Tensor]) -> None:
    """Print a note for layers whose scores are all exactly zero. Raises ScoreError if the scores of all layers are."""
    zero = [name for name, score in scores.items() if not bool(score.any())]
    why = {True: "no gradient reaches it", False: "its weights are all zero"}
    layers = shortened([f"{name} ({why[bool(parameters[name].any())]})" for name in zero])
    if len(zero) == len(scores):
        raise ScoreError(f"method {method!r}: every score is exactly zero, so nothing ranks the weights: {layers}")
    if zero:
        note_once(f"method {method!r} scores every weight of a layer exactly zero, so position decides there: {layers}")


def resolve(method: str, spec: RunSpec) -> Scoring:
    """Return the scoring that `method` has in a run: the grid's, or the published code's if protocol is "original".

    The published code decides every field but `chunk`, which changes no number, and `prune_classifier`, which
    stays the grid's unless the method's `original` sets it.
    """
    if spec.protocol != "original":
        return spec.scoring
    entry = pruners()[method]
    plain = Scoring(prune_classifier=spec.scoring.prune_classifier, chunk=spec.scoring.chunk)
    return msgspec.structs.replace(plain, **{**entry.original, **entry.original_on.get(spec.dataset, {})})
