"""Statistics -> scores -> masks of one model state, shared by all methods and sparsities."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import msgspec
import torch
from torch import Tensor, nn

from pbt_bench.errors import RequestError, ScoreError, note_once, shortened
from pbt_bench.models.model_state import preserved
from pbt_bench.models.prunable import Masks, check_network, matrices_left_out, prunable, reparametrised
from pbt_bench.pruning import batchnorm
from pbt_bench.pruning.masks import Ranking
from pbt_bench.pruning.pruners import Pruner, pruners
from pbt_bench.pruning.rounds import prune_in_rounds
from pbt_bench.pruning.score_functions import evaluate
from pbt_bench.pruning.statistics import Task, Tensors, compute, statistics
from pbt_bench.spec import RunSpec, Scoring


@dataclass(frozen=True)
class Pruned:
    """Masks, with the zero scores, rounds and seconds behind them."""

    masks: Masks
    zero_scores: dict[str, int]  # exactly-zero scores per layer, first round
    seconds: float  # the statistics passes this method needs (shared ones in full) and its own scores and masks
    rounds: int
    notes: dict[str, dict[str, float]] = field(default_factory=dict)  # statistic -> what its provider measured


class Scorer:
    """Scores of one model on one set of batches. `methods` names the methods to share passes with.

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
        check_network(model)
        if half := any(_is_half(p) for p in model.parameters()):
            model = _in_float32(model)
        parameters = _prunable(model, scoring)
        batches = _checked(batches)
        for name, parameter in parameters.items():
            if odd := int((~parameter.detach().isfinite()).sum()):
                raise RequestError(f"{name}: {odd} of {parameter.numel()} weights are NaN or infinite")
        device = next(iter(parameters.values())).device
        batches = [
            (x.to(device, torch.float32 if half and _is_half(x) else None), y.to(device, torch.int64))
            for x, y in ((_usable(x), _usable(y)) for x, y in batches)
        ]
        batches, scoring = _joined(model, batches, scoring)
        later = draw and (lambda number: _joined(model, draw(number), scoring)[0])
        self.task = Task(model, parameters, batches, scoring, seed, draw=later)
        self._methods = set(methods)
        self._statistics: dict[str, Tensors] = {}
        self._seconds: dict[str, float] = {}
        self._scores: dict[tuple[str, bool], Tensors] = {}
        self._rankings: dict[tuple[str, str, bool], Ranking] = {}

    def scores(self, method: str, invert: bool = False) -> Tensors:
        """Return the scores of `method` (of its first round), a tensor per layer; higher is kept."""
        key = (method, invert)
        if key not in self._scores:
            entry = pruners()[method].bound(self.task.scoring)
            self._prepare(entry)
            scores = evaluate(entry, self._statistics, self.task.parameters, invert)
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
        """Compute the statistics of `entry`, and those that other methods need from the same providers."""
        if self._seconds.keys() >= set(entry.needs):
            return
        providers = {statistics()[name].provider for name in entry.needs}
        others = {name for method in self._methods for name in pruners()[method].needs if name in statistics()}
        wanted = {*entry.needs, *(name for name in others if statistics()[name].provider in providers)}
        wanted -= self._seconds.keys()
        with preserved(self.task.model):
            try:
                computed = compute(self.task, wanted)
            except (
                RequestError
            ):  # a statistic requested only by another method may be unavailable: retry with this method's own
                computed = compute(self.task, set(entry.needs) - self._seconds.keys())
        self._statistics |= computed.values
        self._seconds |= computed.seconds

    def _cost(self, entry: Pruner) -> float:
        """Return the seconds of the passes that `entry` needs, each provider counted once."""
        return sum({statistics()[name].provider: self._seconds[name] for name in entry.needs}.values())


def _prunable(model: nn.Module, scoring: Scoring) -> dict[str, nn.Parameter]:
    """Return the prunable weights. Raises RequestError if there are none or they are no floating-point numbers."""
    parameters = prunable(model, scoring.prune_classifier)
    computed = reparametrised(model)
    why = (
        f"{shortened(computed)} (of layers that compute their weight: make it plain with torch.nn.utils.prune.remove, "
        "parametrize.remove_parametrizations, remove_weight_norm or remove_spectral_norm)"
    )
    if not parameters:
        reason = f": {why}" if computed else " (convolutions or linear layers)"
        raise RequestError(f"{type(model).__name__} has no prunable weights{reason}")
    if computed:
        note_once(f"not prunable, and not counted in the sparsity: {why}")
    if left_out := matrices_left_out(model):
        note_once(
            f"not prunable, and not counted in the sparsity: {', '.join(left_out)} "
            "(only weights of convolutions and linear layers are)"
        )
    for name, parameter in parameters.items():
        if not parameter.is_floating_point():
            kind = str(parameter.dtype).removeprefix("torch.")
            raise RequestError(f"{name} is {kind}: only floating-point weights can be scored")
    return parameters


def _checked(batches: Iterable[tuple[Tensor, Tensor]]) -> Sequence[tuple[Tensor, Tensor]]:
    """Return the batches. Raises RequestError unless they are pairs of inputs and class indices."""
    if not isinstance(batches, Iterable):
        raise RequestError(f"scoring data: {type(batches).__name__} is not a series of (inputs, targets)")
    batches = batches if isinstance(batches, Sequence) else list(batches)
    if not batches:
        raise RequestError("no scoring data: `batches` is empty")
    for index, batch in enumerate(batches):
        pair = isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(t, Tensor) for t in batch)
        if not pair or not 0 < len(batch[0]) == len(batch[1]):
            raise RequestError(f"scoring data: batch {index} is not (inputs, targets), two tensors of one length > 0")
        targets = batch[1]
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool or targets.dim() != 1:
            found = f"{str(targets.dtype).removeprefix('torch.')} of shape {tuple(targets.shape)}"
            raise RequestError(f"scoring data: the targets of batch {index} are {found}, not class indices [samples]")
    return batches


def _joined(
    model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], scoring: Scoring
) -> tuple[Sequence[tuple[Tensor, Tensor]], Scoring]:
    """Join a last batch of one sample where batches are normalised; a Fisher group that was a batch stays one."""
    dependent = batchnorm.dependent(model, scoring.batchnorm)
    if not dependent and scoring.batchnorm != "calibrated":
        return batches, scoring
    joined = batchnorm.joined(batches)
    if dependent and len(joined) < len(batches) and scoring.fisher_batch_size == len(batches[-2][1]):
        scoring = msgspec.structs.replace(scoring, fisher_batch_size=scoring.fisher_batch_size + 1)
    return joined, scoring


def _is_half(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype.itemsize < 4


def _in_float32(model: nn.Module) -> nn.Module:
    """Return a copy of a model in half precision, in which products of small numbers would become zero."""
    try:
        return copy.deepcopy(model).float()
    except RuntimeError as error:  # a tensor that is computed from others
        said = str(error).splitlines()[0]
        raise RequestError(f"{type(model).__name__} is in half precision and has no copy in float32: {said}") from error


def _usable(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor  # autograd saves no tensor of torch.inference_mode


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
