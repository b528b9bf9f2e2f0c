"""Checks that need no training: a record against itself, its specification, its masks and its dataset, and records
against each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, isclose
from typing import Any

import msgspec
import torch
from torch import nn

from pbt_bench.data.images import Dataset
from pbt_bench.errors import RequestError
from pbt_bench.models import build
from pbt_bench.models.prunable import prunable
from pbt_bench.pattern_names import parse
from pbt_bench.pruning.diagnosis import diagnose
from pbt_bench.pruning.masks import pruned_count
from pbt_bench.pruning.patterns import n_of_m_kept
from pbt_bench.pruning.plugins import pruners
from pbt_bench.pruning.scoring import resolve
from pbt_bench.running.record import RECOVERED, Epoch, Metrics, Pruning, RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import DENSE, Recipe, RunSpec, Scoring
from pbt_bench.training.loop import steps_of
from pbt_bench.training.optimizer import learning_rate
from pbt_bench.training.stepper import batches

ROUNDED = 5e-3  # accuracy: rounding may change the answer for one or two validation images
_SAME_RATE = 1e-9  # relative: libraries of mathematics differ in the last bits of a cosine
_NO_CHANGE = {  # settings of a recipe that change no weight, and the values with which recipes are compared
    "execution": "auto",
    "threads": 1,
    "test_every_epoch": False,
}


@dataclass
class References:
    """The datasets and networks with which records are compared; those that cannot be had are left out."""

    load: Callable[[str], Dataset]
    missing: set[str] = field(default_factory=set)  # datasets that cannot be read, and models that cannot be built
    _datasets: dict[str, Dataset | None] = field(default_factory=dict)
    _models: dict[tuple[str, str], nn.Module | None] = field(default_factory=dict)

    def dataset(self, name: str) -> Dataset | None:
        """Return a dataset; None if it cannot be read."""
        if name not in self._datasets:
            try:
                self._datasets[name] = self.load(name)
            except RequestError:
                self._datasets[name] = None
                self.missing.add(f"dataset {name}")
        return self._datasets[name]

    def model(self, name: str, dataset: str) -> nn.Module | None:
        """Return a network with arbitrary weights; None if it cannot be built."""
        key = name, dataset
        if key not in self._models:
            self._models[key] = None
            if data := self.dataset(dataset):
                try:
                    self._models[key] = build(name, data.channels, data.classes, seed=0, size=data.size)
                except RequestError:
                    self.missing.add(f"model {name}")
        return self._models[key]


def inconsistencies(record: RunRecord, store: Store, references: References | None = None) -> list[str]:
    """Return the contradictions of `record` to itself, its specification and its mask file.

    With `references`, also to its dataset and its network.
    """
    pruning, metrics = record.pruning, record.metrics
    if pruning is None or metrics is None:
        return ["it has no pruning or no metrics"]
    found = [*_of_masks(record, pruning, store, references), *_of_training(record, pruning, metrics)]
    stated = {**msgspec.structs.asdict(pruning), **msgspec.structs.asdict(metrics)}
    derived = {**_from_layers(pruning), **_from_epochs(record, metrics), **_from_method(record.spec)}
    found += [
        f"{name} is {stated[name]}, but its layers, epochs and specification give {value}"
        for name, value in derived.items()
        if stated[name] != value
    ]
    if references and (data := references.dataset(record.spec.dataset)):
        found += _of_data(record, metrics, data)
    if not record.environment.get("pbt_bench"):
        found.append("the version of the code that made it is missing")
    return found


def _of_masks(record: RunRecord, pruning: Pruning, store: Store, references: References | None) -> Iterator[str]:
    """Yield contradictions of counts, sparsities, layers and masks."""
    if not _number_as_requested(record.spec, pruning):
        yield f"{pruning.prunable - pruning.kept} of {pruning.prunable} weights pruned"
    updated = pruning.initial_mask_digest is not None  # weights that grew are zero until their next step
    if pruning.realised_sparsity < pruning.sparsity or (pruning.realised_sparsity > pruning.sparsity and not updated):
        yield f"sparsity {pruning.sparsity} of the masks, {pruning.realised_sparsity} of the weights"
    for epoch in record.curve:
        if epoch.realised_sparsity != pruning.sparsity and not updated:
            yield f"sparsity {epoch.realised_sparsity} of the weights after epoch {epoch.epoch}"
    sums = [sum(layer.prunable for layer in pruning.layers), sum(layer.kept for layer in pruning.layers)]
    if sums != [pruning.prunable, pruning.kept]:
        yield "the sums over its layers are not its totals"
    masks = store.read_masks(record)
    if masks is None:
        if why := store.mask_fault(record.run_id):
            yield f"its mask file {why}"
    elif [int(mask.sum()) for mask in masks.values()] != [layer.kept for layer in pruning.layers]:
        yield "its masks keep other numbers of weights than its layers state"
    elif masks and references and (model := references.model(record.spec.model, record.spec.dataset)):
        data = references.dataset(record.spec.dataset)
        assert data
        tensors = {name: torch.from_numpy(mask) for name, mask in masks.items()}
        yield from _of_network(record, pruning, model, tensors, torch.zeros(1, *data.train.shape))
        return
    if (
        pruning.mask_metrics
        and not updated
        and (pruning.mask_metrics.log10_paths is None) != (record.status == "collapsed")
    ):
        yield f"it is {record.status}, with 10^{pruning.mask_metrics.log10_paths} paths of kept weights"


def _of_network(
    record: RunRecord, pruning: Pruning, model: nn.Module, masks: dict[str, torch.Tensor], example: torch.Tensor
) -> Iterator[str]:
    """Yield contradictions to the network under the stored masks."""
    scoring = _scoring(record.spec)
    shapes = {name: tuple(weight.shape) for name, weight in prunable(model, scoring.prune_classifier).items()}
    if shapes != {layer.name: layer.shape for layer in pruning.layers}:
        yield f"its layers are not those of {record.spec.model}"
        return
    found = diagnose(model, masks, example)
    if found.connected == (record.status == "collapsed"):
        yield f"it is {record.status}, and its masks keep {'a' if found.connected else 'no'} path"
    for name in ("effective_sparsity", "flops_dense", "flops_sparse"):
        stated, computed = getattr(pruning, name), getattr(found, name)
        if stated != computed:
            yield f"{name} is {stated}, but its masks give {computed}"
    live = [each.live_units for each in found.layers]
    if any(layer.live_units not in (None, units) for layer, units in zip(pruning.layers, live, strict=True)):
        yield "its masks have other numbers of live units than its layers state"
    if (metrics := pruning.mask_metrics) and pruning.initial_mask_digest is None:  # of the masks before training
        if metrics.live_unit_share not in (None, found.live_unit_share):
            yield f"live_unit_share is {metrics.live_unit_share}, but its masks give {found.live_unit_share}"
        if (metrics.log10_paths is None) == found.connected:
            yield f"log10_paths is {metrics.log10_paths}, but its masks keep {'a' if found.connected else 'no'} path"


def _of_training(record: RunRecord, pruning: Pruning, metrics: Metrics) -> Iterator[str]:
    """Yield contradictions of status, epochs and times."""
    recipe = record.spec.recipe
    trained = record.status != "collapsed" or pruning.initial_mask_digest is not None
    epochs = [epoch.epoch for epoch in record.curve]
    least = recipe.epochs if trained and record.status != "diverged" else 0
    most = recipe.epochs - (record.status == "diverged") if trained else 0
    if epochs:  # a run that is rewound to an epoch begins with that epoch
        begin = epochs[0] - 1 if record.spec.options.get("rewind") else 0
        epochs = [*range(1, begin + 1), *epochs]
    if epochs != list(range(1, len(epochs) + 1)) or not least <= len(epochs) <= most:
        yield f"{record.status} after {len(epochs)} of {recipe.epochs} epochs"
    finite = None not in (metrics.test_loss, metrics.validation_loss)
    if record.status == "diverged" and finite and RECOVERED not in pruning.notes:
        yield "diverged, but the losses of its final weights are finite"
    times = [pruning.scoring_seconds, record.environment.get("seconds", 0.0), *(each.seconds for each in record.curve)]
    if not all(0 <= seconds < float("inf") for seconds in times):
        yield "a time is negative or not finite"
    if metrics.best_test_accuracy_over_epochs is not None and not recipe.test_every_epoch:
        yield "best_test_accuracy_over_epochs was not requested"
    if metrics.noisy_label_accuracy is not None and not recipe.label_noise:
        yield "noisy_label_accuracy was not requested"


def _of_data(record: RunRecord, metrics: Metrics, data: Dataset) -> Iterator[str]:
    """Yield contradictions to the numbers of images and classes: accuracies are shares of whole images."""
    recipe = record.spec.recipe
    if record.data_digest not in (None, data.digest):
        yield f"its dataset has the digest {record.data_digest}, but the one here {data.digest}"
    if metrics.chance_accuracy != 1 / data.classes:
        yield f"chance_accuracy is {metrics.chance_accuracy}, but {record.spec.dataset} has {data.classes} classes"
    validation = ceil(recipe.validation_fraction * len(data.train))
    train = recipe.training_images or len(data.train) - validation
    tests = ("test_accuracy", "test_accuracy_at_best_validation", "best_test_accuracy_over_epochs")
    shares = [(name, getattr(metrics, name), len(data.test)) for name in tests]
    shares.append(("validation_accuracy", metrics.validation_accuracy, validation))
    shares.append(("noisy_label_accuracy", metrics.noisy_label_accuracy, round(recipe.label_noise * train)))
    steps = len(list(batches(train, recipe.batch_size)))
    begun = _begun(record.spec, steps, record.curve)
    for epoch in record.curve:
        where = f"of epoch {epoch.epoch}"
        shares.append((f"validation_accuracy {where}", epoch.validation_accuracy, validation))
        before = max(0, begun - (epoch.epoch - 1) * steps) * recipe.batch_size  # images of steps that are left out
        seen = min(train, steps * recipe.batch_size) - before
        shares.append((f"train_accuracy {where}", epoch.train_accuracy, seen))
        rate = learning_rate(recipe, epoch.epoch * steps - 1, steps)
        if not isclose(epoch.learning_rate, rate, rel_tol=_SAME_RATE, abs_tol=1e-15):
            yield f"learning_rate {where} is {epoch.learning_rate}, but its recipe gives {rate}"
    for name, share, images in shares:
        if (share is None) != (images == 0) and "test" not in name:
            yield f"{name} is {share} with {images} images"
        elif share is not None and (images <= 0 or round(share * images) / images != share):
            yield f"{name} is {share}, which is no number of right answers in {images} images"


def _begun(spec: RunSpec, steps: int, curve: Sequence[Epoch]) -> int:
    """Return the number of steps before the training of a run, above 0 only for a rewound run."""
    rewind = spec.options.get("rewind", 0)
    try:
        return steps_of(rewind, steps) if isinstance(rewind, (int, str)) else 0
    except RequestError:  # an option of another meaning
        return (curve[0].epoch - 1) * steps if curve else 0


def _scoring(spec: RunSpec) -> Scoring:
    """Return the settings of the scoring of a run, also if its method is gone."""
    known = spec.method != DENSE and spec.method in pruners()
    return resolve(spec.method, spec)[0] if known else spec.scoring


def _from_method(spec: RunSpec) -> dict[str, Any]:
    """Return the number of rounds that a method declares; nothing if its file is gone."""
    if spec.method == DENSE:
        return {"rounds": 0}
    if spec.method not in pruners():
        return {}
    declared = pruners()[spec.method].rounds
    return {"rounds": (_scoring(spec).rounds or declared) if declared > 1 else 1}


def _from_layers(pruning: Pruning) -> dict[str, Any]:
    """Recompute totals from the layers."""
    weights = max(1, pruning.prunable)
    return {
        "sparsity": 1 - pruning.kept / weights,
        "collapsed_layers": sum(layer.kept == 0 for layer in pruning.layers),
        "zero_score_share": sum(layer.zero_scores for layer in pruning.layers) / weights,
    }


def _from_epochs(record: RunRecord, metrics: Metrics) -> dict[str, Any]:
    """Recompute metrics from the curve."""
    curve = record.curve
    held = [epoch.validation_accuracy for epoch in curve if epoch.validation_accuracy is not None]
    best = curve[0].epoch + held.index(max(held)) if held else None
    found: dict[str, Any] = {
        "train_loss": curve[-1].train_loss if curve else None,
        "best_validation_epoch": best,
        "test_accuracy_at_best_validation": metrics.test_accuracy_at_best_validation if best else None,
    }
    if record.status == "done" and curve:  # the final metrics are of the last epoch's weights
        # An epoch evaluates on the live channels only, which rounds differently.
        for name in ("validation_accuracy", "validation_loss"):
            stated, last = getattr(metrics, name), getattr(curve[-1], name)
            close = None not in (stated, last) and isclose(stated, last, rel_tol=1e-3, abs_tol=ROUNDED)
            found[name] = stated if close else last
        if best == curve[-1].epoch:
            found["test_accuracy_at_best_validation"] = metrics.test_accuracy
    return found


def _number_as_requested(spec: RunSpec, pruning: Pruning) -> bool:
    """Return whether the number of pruned weights is the one that sparsity and pattern define."""
    pruned, expected = pruning.prunable - pruning.kept, pruned_count(spec.sparsity, pruning.prunable)
    pattern = parse(spec.pattern) if spec.sparsity else None
    if pattern is None:
        return pruned == expected
    if pattern.group is None:
        return pruned >= expected
    return pruning.kept == n_of_m_kept({layer.name: layer.shape for layer in pruning.layers}, *pattern.group)


# -- records that share what only copies share ------------------------------------------------------------------------


def copies(records: Iterable[RunRecord]) -> list[tuple[RunRecord, str]]:
    """Return each record that has the final weights or the curve of a run that cannot have the same.

    Runs of equal masks, seed and recipe have equal weights, whatever gave them the masks.
    """
    found = []
    weights: dict[Hashable, list[RunRecord]] = defaultdict(list)
    curves: dict[Hashable, list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.pruning is None or record.metrics is None:
            continue
        # A network without weights is the same for all seeds, and so is one whose weights are NaN.
        if record.pruning.kept and record.status != "diverged":
            weights[record.metrics.weights_digest].append(record)
        if record.curve:
            rows = tuple(msgspec.structs.astuple(msgspec.structs.replace(row, seconds=0.0)) for row in record.curve)
            curves[rows].append(record)
    for what, groups in (("final weights", weights), ("curve", curves)):
        for group in groups.values():
            others: dict[Hashable, RunRecord] = {}
            for record in group:
                others.setdefault(_training_of(record, whole=what != "curve"), record)
            if len(others) == 1 or (what == "curve" and _gradients_agree(group)):
                continue
            for record in group:
                other = next(each for each in others.values() if each is not record)
                found.append((record, f"it has the {what} of {other.run_id}, {other.spec.label}"))
    return found


def _gradients_agree(group: Sequence[RunRecord]) -> bool:
    """Return whether runs of one training have the same gradients before it although their masks differ.

    Weights that no image reaches, behind units that are zero for all of them, make such a difference.
    """
    found = set()
    for record in group:
        assert record.pruning
        if (metrics := record.pruning.mask_metrics) is None:
            return False
        spec = record.spec
        recipe = msgspec.structs.replace(spec.recipe, **_NO_CHANGE)
        found.add((spec.dataset, spec.model, spec.seed, recipe, metrics.gradient_norm, metrics.ntk_trace))
    return len(found) == 1


def _training_of(record: RunRecord, whole: bool) -> Hashable:
    """Return a key of everything that the weights of a run depend on, or, unless `whole`, its curve."""
    spec, pruning, metrics = record.spec, record.pruning, record.metrics
    assert pruning
    assert metrics
    key = (spec.dataset, spec.model, spec.seed, spec.sanity == "reinit")
    recipe = msgspec.structs.replace(spec.recipe, **_NO_CHANGE) if record.curve else Recipe(epochs=0)
    # A network that answers alike for all images learns its biases alone, and they do not depend on the mask.
    learned = whole or record.curve[-1].train_accuracy >= 2 * metrics.chance_accuracy
    return (*key, recipe, pruning.mask_digest if learned else None)


def same_masks(records: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """Return groups of records that share a mask although they differ in a setting that most masks depend on.

    Such masks can be right, for example of a method that reads neither weights nor data: only a recomputation decides.
    """
    groups: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        pruning = record.pruning
        if pruning and 0 < pruning.kept < pruning.prunable:
            groups[pruning.initial_mask_digest or pruning.mask_digest].append(record)
    found = []
    for group in groups.values():
        distinct = {_mask_of(record.spec): record for record in group}
        if len(distinct) > 1:
            found.append(list(distinct.values()))
    return found


def _mask_of(spec: RunSpec) -> Hashable:
    """Return a key of the settings that the mask of a run depends on; those of a dense training are left out."""
    recipe = spec.recipe if spec.warmup != "none" or spec.scoring.augment else None
    sanity = "none" if spec.sanity == "reinit" else spec.sanity
    options: Mapping[str, Any] = spec.options
    parts = (spec.dataset, spec.model, spec.method, spec.sparsity, spec.seed, spec.scope, sanity, spec.warmup)
    scoring = (spec.init, spec.protocol, spec.scoring, spec.pattern)
    return (*parts, *scoring, tuple(sorted(options.items())), recipe)
