"""Statistics -> scores -> masks for one model state, shared by all methods and sparsities that start from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pbt_bench.errors import RequestError, note_once
from pbt_bench.models.prunable import matrices_left_out, prunable
from pbt_bench.pruning.masks import Masks, Ranking
from pbt_bench.pruning.preserve import preserved
from pbt_bench.pruning.pruners import Pruner, pruners
from pbt_bench.pruning.rounds import evaluate, prune_in_rounds
from pbt_bench.pruning.statistics import Task, Tensors, compute, statistics
from pbt_bench.spec import RunSpec, Scoring


@dataclass(frozen=True)
class Pruned:
    """Masks, and what they came from."""

    masks: Masks
    zero_scores: dict[str, int]  # exactly-zero scores per layer, first round
    seconds: float  # the statistics passes this method needs (shared ones in full) and its own scores and masks
    rounds: int
    notes: dict[str, dict[str, float]] = field(default_factory=dict)  # statistic -> what its provider measured


class Scorer:
    """Scores of one model on one set of batches. `methods` names who will ask, so that passes can be shared.

    The model comes back bit-identical from every call. Computed statistics and scores are kept.
    `draw` returns the batches of a later round of an iterative method; without it every round has the same.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        scoring: Scoring,
        seed: int,
        methods: Collection[str] = (),
        draw: Callable[[int], Sequence[tuple[Tensor, Tensor]]] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise RequestError(f"the model is {type(model).__name__}, not a torch.nn.Module")
        parameters = prunable(model, scoring.prune_classifier)
        if not parameters:
            raise RequestError(f"{type(model).__name__} has no prunable weights (convolutions or linear layers)")
        if left_out := matrices_left_out(model):
            note_once(
                f"not prunable, and not counted in the sparsity: {', '.join(left_out)} "
                "(only weights of convolutions and linear layers are)"
            )
        if not isinstance(batches, Iterable):
            raise RequestError(f"scoring data: {type(batches).__name__} is not a series of (inputs, targets)")
        batches = batches if isinstance(batches, Sequence) else list(batches)
        if not batches:
            raise RequestError("no scoring data: `batches` is empty")
        for name, parameter in parameters.items():
            if is_lazy(parameter):
                raise RequestError(f"{name} has no shape yet: run the model on one batch before it is scored")
            if odd := int((~parameter.detach().isfinite()).sum()):
                raise RequestError(f"{name}: {odd} of {parameter.numel()} weights are NaN or infinite")
        device = next(iter(parameters.values())).device
        for index, batch in enumerate(batches):
            pair = isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(t, Tensor) for t in batch)
            if not pair or not 0 < len(batch[0]) == len(batch[1]):
                raise RequestError(
                    f"scoring data: batch {index} is not (inputs, targets), two tensors of one length > 0"
                )
            targets = batch[1]
            if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool or targets.dim() != 1:
                found = f"{str(targets.dtype).removeprefix('torch.')} of shape {tuple(targets.shape)}"
                raise RequestError(
                    f"scoring data: the targets of batch {index} are {found}, not class indices [samples]"
                )
        batches = [(inputs.to(device), targets.to(device, torch.int64)) for inputs, targets in batches]
        self.task = Task(model, parameters, batches, scoring, seed, draw=draw)
        self._methods = set(methods)
        self._statistics: dict[str, Tensors] = {}
        self._seconds: dict[str, float] = {}
        self._scores: dict[tuple[str, bool], Tensors] = {}
        self._rankings: dict[tuple[str, str, bool], Ranking] = {}

    def scores(self, method: str, invert: bool = False) -> Tensors:
        """The scores of `method` (of its first round), a tensor per prunable weight; higher is kept."""
        key = (method, invert)
        if key not in self._scores:
            entry = pruners()[method].bound(self.task.scoring)
            self._prepare(entry)
            self._scores[key] = evaluate(entry, self._statistics, self.task.parameters, invert)
        return self._scores[key]

    def prune(self, method: str, sparsity: float, scope: str = "global", invert: bool = False) -> Pruned:
        """Masks of `method` that keep N - floor(sparsity · N) weights."""
        entry = pruners()[method].bound(self.task.scoring)
        scope = entry.in_scope(scope)
        rounds = (self.task.scoring.rounds or entry.rounds) if entry.rounds > 1 else 1
        self._prepare(entry)
        start = perf_counter()
        scores = self.scores(method, invert)
        if rounds > 1:
            with preserved(self.task.model):
                masks = prune_in_rounds(entry, self.task, scores, sparsity, scope, invert, rounds)
        else:
            key = (method, scope, invert)
            if key not in self._rankings:
                self._rankings[key] = Ranking(scores, scope)
            masks = self._rankings[key].masks(sparsity)
        zeros = {name: int((s == 0).sum()) for name, s in scores.items()}
        notes = {name: self.task.notes[name] for name in entry.needs if name in self.task.notes}
        return Pruned(masks, zeros, self._cost(entry) + perf_counter() - start, rounds, notes)

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
