"""Are the records of a study what their runs would give again?

Every record is checked against itself and its mask file; what the runs of a sample pruned is computed anew from their
specification alone, on request the whole training too.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

import msgspec
import torch

from pbt_bench.pruning.masks import pruned_count
from pbt_bench.running.environment import describe
from pbt_bench.running.execute import Executor
from pbt_bench.running.record import Metrics, Pruning, RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec

_TIMES = ("seconds", "scoring_seconds")  # all else of a result is the same bits each time
_ROUNDED = 5e-3  # a validation image or two whose answers are all but tied
_LISTED = 3  # values of one record that differ, before "and n more"


@dataclass(frozen=True)
class Audit:
    """What was found."""

    name: str
    runs: int  # of the study
    records: int  # results: without the failed ones
    recomputed: int  # of them, what they pruned (or whole runs) computed anew
    uncommitted: int  # of them, made by code that no commit holds
    elsewhere: tuple[str, ...]  # where the recomputed ones were made, if not on a machine like this
    faults: tuple[tuple[RunSpec, str], ...]

    def text(self) -> str:
        """`n of n verified`, what was not, and every fault."""
        bad = len({spec.run_id for spec, _ in self.faults})
        lines = [
            f"{self.name}: {self.records - bad} of {self.records} verified, {self.recomputed} of them computed anew"
        ]
        if self.records < self.runs:
            lines.append(f"note: {self.runs - self.records} of {self.runs} runs have no result")
        if self.uncommitted:
            lines.append(f"note: {self.uncommitted} were made by code with changes that were not committed")
        if self.elsewhere and self.faults:
            lines.append(f"note: made with {', '.join(self.elsewhere)}; here the last bits of a score may differ")
        return "\n".join([*lines, *(f"fault: {spec.label} ({spec.run_id}): {what}" for spec, what in self.faults)])


def audit(
    name: str, specs: Sequence[RunSpec], store: Store, data: Path, device: str, sample: int, retrain: bool
) -> Audit:
    """Check all records of `specs`; compute `sample` of them anew, to the end of the training with `retrain`.

    The sample is the same in every call. A record whose file does not hash to its name, or cannot be read, is a
    fault too: the run that it should be of has no valid record.
    """
    records: list[RunRecord] = []
    unreadable: list[RunSpec] = []
    faults: list[tuple[RunSpec, str]] = []
    for spec in specs:
        if not store.path(spec.run_id).exists():
            continue
        record = store.read(spec.run_id)
        if record is None:
            unreadable.append(spec)
            faults.append((spec, "the record cannot be read, or is not of this run"))
        elif record.status != "failed":
            records.append(record)
            faults += [(spec, what) for what in inconsistencies(record, store)]
    whole = [record for record in records if record.pruning and record.metrics]
    chosen = random.Random(0).sample(whole, min(sample, len(whole)))
    executor = Executor(data, torch.device(device))
    for record in sorted(chosen, key=lambda record: repr(record.spec.group)):  # groups share data and statistics
        faults += [(record.spec, what) for what in _again(record, executor, retrain)]
    uncommitted = sum(str(record.environment.get("commit")).endswith("+changes") for record in records)
    elsewhere = sorted({_machine(record.environment) for record in chosen} - {_machine(describe(torch.device(device)))})
    found = len(records) + len(unreadable)
    return Audit(name, len(specs), found, len(chosen), uncommitted, tuple(elsewhere), tuple(faults))


def _machine(environment: Mapping[str, Any]) -> str:
    """What decides the order of sums."""
    return " ".join(
        f"{name} {environment.get(name)}" for name in ("torch", "device_name", "processor", "sparse_kernels")
    )


def inconsistencies(record: RunRecord, store: Store) -> list[str]:
    """What of `record` contradicts itself, its specification or its mask file."""
    pruning, metrics = record.pruning, record.metrics
    if pruning is None or metrics is None:
        return ["a result without its pruning or its metrics"]
    found = []
    if pruning.prunable - pruning.kept != pruned_count(record.spec.sparsity, pruning.prunable):
        found.append(f"{pruning.prunable - pruning.kept} of {pruning.prunable} weights pruned")
    if pruning.realised_sparsity != pruning.sparsity:
        found.append(f"sparsity {pruning.sparsity} of the masks, {pruning.realised_sparsity} of the weights")
    for epoch in record.curve:
        if epoch.realised_sparsity != pruning.sparsity:
            found.append(f"sparsity {epoch.realised_sparsity} of the weights after epoch {epoch.epoch}")
    sums = [sum(layer.prunable for layer in pruning.layers), sum(layer.kept for layer in pruning.layers)]
    if sums != [pruning.prunable, pruning.kept]:
        found.append("the layers do not add up")
    masks = store.read_masks(record)
    if masks is None:
        found.append("its mask file is missing or has another digest")
    elif [int(mask.sum()) for mask in masks.values()] != [layer.kept for layer in pruning.layers]:
        found.append("its masks keep other numbers of weights than its layers say")
    stated = {**msgspec.structs.asdict(pruning), **msgspec.structs.asdict(metrics)}
    found += [
        f"{name} is {stated[name]}, from its layers and epochs {value}"
        for name, value in {**_of_layers(pruning), **_of_epochs(record, metrics)}.items()
        if stated[name] != value
    ]
    epochs = [epoch.epoch for epoch in record.curve]
    least = record.spec.recipe.epochs if record.status == "done" else 0
    most = {"done": least, "collapsed": 0}.get(record.status, record.spec.recipe.epochs - 1)
    if epochs != list(range(1, len(epochs) + 1)) or not least <= len(epochs) <= most:
        found.append(f"{record.status} after {len(epochs)} of {record.spec.recipe.epochs} epochs")
    if not record.environment.get("pbt_bench"):
        found.append("the code that made it is unknown")
    return found


def _of_layers(pruning: Pruning) -> dict[str, Any]:
    """What follows from the layers."""
    weights = max(1, pruning.prunable)
    return {
        "sparsity": 1 - pruning.kept / weights,
        "collapsed_layers": sum(layer.kept == 0 for layer in pruning.layers),
        "zero_score_share": sum(layer.zero_scores for layer in pruning.layers) / weights,
    }


def _of_epochs(record: RunRecord, metrics: Metrics) -> dict[str, Any]:
    """What of the metrics follows from the curve."""
    curve = record.curve
    held = [epoch.validation_accuracy for epoch in curve if epoch.validation_accuracy is not None]
    best = held.index(max(held)) + 1 if held else None
    found: dict[str, Any] = {
        "train_loss": curve[-1].train_loss if curve else None,
        "best_validation_epoch": best,
        "test_accuracy_at_best_validation": metrics.test_accuracy_at_best_validation if best else None,
    }
    if record.status == "done" and curve:  # then the last epoch's weights are those that were evaluated
        for name in ("validation_accuracy", "validation_loss"):  # there on its live channels: rounded differently
            stated, last = getattr(metrics, name), getattr(curve[-1], name)
            close = None not in (stated, last) and isclose(stated, last, rel_tol=1e-3, abs_tol=_ROUNDED)
            found[name] = stated if close else last
        if best == len(curve):
            found["test_accuracy_at_best_validation"] = metrics.test_accuracy
    return found


def _again(record: RunRecord, executor: Executor, retrain: bool) -> list[str]:
    if retrain:
        other = executor.execute(record.spec).record
        if other.status == "failed":
            return [f"computed anew it failed: {other.error_line}"]
    else:
        try:
            other = msgspec.structs.replace(record, pruning=executor.pruning(record.spec))
        except Exception as error:  # a dataset that is gone, a method that fails now
            return [f"computed anew it failed: {type(error).__name__}: {error}"]
    old, new = (
        dict(_leaves(msgspec.to_builtins(msgspec.structs.replace(each, environment={})))) for each in (record, other)
    )
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    found = [f"computed anew its {name} is {new.get(name)}, not {old.get(name)}" for name in differing[:_LISTED]]
    return found + [f"and {len(differing) - _LISTED} more values"] * (len(differing) > _LISTED)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(place, value) of every number and text of a record but its times."""
    if isinstance(value, (dict, list, tuple)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in _TIMES:
                yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
