"""Check that repeating the runs of a study would give the same records.

Every record is checked against itself and its mask file. The pruning of a sample of runs is recomputed from their
specifications alone; on request the whole training is repeated too.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

import msgspec
import torch

from pbt_bench.errors import counted, printable
from pbt_bench.pattern_names import parse
from pbt_bench.pruning.masks import pruned_count
from pbt_bench.pruning.patterns import n_of_m_kept
from pbt_bench.running.audit_log import add_audited
from pbt_bench.running.environment import describe
from pbt_bench.running.execute import Executor
from pbt_bench.running.matching import find_others, revision_note
from pbt_bench.running.record import Metrics, Pruning, RunRecord, mask_metrics, numbers
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec

_ROUNDED = 5e-3  # accuracy: rounding may change the answer for one or two validation images
_ROUNDED_METRIC = 1e-3  # relative: rounding may change the side of a rectifier for a few activations
_SHOWN = 3  # differing values of one record that are named


@dataclass(frozen=True)
class Audit:
    """The result of an audit."""

    name: str
    runs: int  # in the study
    records: int  # failed, superseded and newer ones excluded
    recomputed: int  # records whose pruning or whole run was repeated
    uncommitted: int  # records made by code with uncommitted changes
    other_machines: tuple[str, ...]  # different machines that made the recomputed records
    faults: tuple[tuple[RunSpec, str], ...]
    notes: tuple[str, ...] = ()  # on records that are not of these runs as this version executes them

    def text(self) -> str:
        """Return a summary line, notes, and one line per fault."""
        bad = len({spec.run_id for spec, _ in self.faults})
        lines = [f"{self.name}: {self.records - bad} of {self.records} verified, {self.recomputed} of them recomputed"]
        if self.records < self.runs:
            lines.append(f"note: {self.runs - self.records} of {self.runs} runs have no result")
        lines += [f"note: {note}" for note in self.notes]
        if self.uncommitted:
            lines.append(f"note: {self.uncommitted} were made by code with uncommitted changes")
        if self.other_machines and self.faults:
            made = ", ".join(self.other_machines)
            lines.append(f"note: made with {made}; on this machine the last bits of a score may differ")
        lines += [f"fault: {spec.label} ({spec.run_id}): {fault}" for spec, fault in self.faults]
        return "\n".join(map(printable, lines))


def audit(
    name: str, specs: Sequence[RunSpec], store: Store, data: Path, device: str, sample: int, retrain: bool
) -> Audit:
    """Check all records of `specs` and recompute `sample` of them; with `retrain`, repeat their training too.

    The sample is the same in every call. A record that cannot be read, or whose content belongs to another run, is a
    fault. Reports say which records were recomputed without a fault. Superseded records, and records of methods, models
    and datasets whose file is gone, are checked against themselves alone.
    """
    wanted = {spec.run_id: spec for spec in specs}
    others = find_others(store, wanted)
    present = store.names() | store.migrated.keys()
    newer = 0
    records: list[RunRecord] = []
    unreadable: list[RunSpec] = []
    faults: list[tuple[RunSpec, str]] = []
    for spec in specs:
        if spec.run_id not in present:
            continue
        record = store.read(spec.run_id)
        if record is None and store.is_newer(spec.run_id):
            newer += 1
        elif record is None:
            unreadable.append(spec)
            faults.append((spec, "the record cannot be read, or belongs to another run"))
        elif record.status != "failed":
            records.append(record)
            faults += [(spec, fault) for fault in inconsistencies(record, store)]
    for file, _ in others.superseded.values():
        if record := store.read(file):
            faults += [(record.spec, fault) for fault in inconsistencies(record, store)]
    gone = {record.run_id for record in records if "unknown" in revision_note(record.spec)}
    whole = [record for record in records if record.pruning and record.metrics and record.run_id not in gone]
    chosen = random.Random(0).sample(whole, min(sample, len(whole)))
    executor = Executor(data, torch.device(device))
    for record in sorted(chosen, key=lambda record: repr(record.spec.group)):  # groups share data and statistics
        faults += [(record.spec, fault) for fault in _recompute(record, executor, retrain)]
    bad = {spec.run_id for spec, _ in faults}
    sound = [record.run_id for record in chosen if record.run_id not in bad]
    add_audited(store, sound, "training" if retrain else "masks")
    uncommitted = sum(
        bool(record.environment.get("dirty")) or str(record.environment.get("commit")).endswith("+changes")
        for record in records
    )
    reasons = Counter(why for _, why in others.superseded.values()).most_common()
    notes = [f"{counted(count, 'record')} superseded: {why}" for why, count in reasons]
    notes += [f"{counted(count, 'record')} {text}" for count, text in (
        (len(others.migrated), "migrated from an earlier version"),
        (newer, "written by a newer pbt-bench, and not checked"),
        (len(gone), "not recomputed: the file of the method, model or dataset is gone"),
    ) if count]  # fmt: skip
    machines = sorted({_machine(record.environment) for record in chosen} - {_machine(describe(torch.device(device)))})
    found = len(records) + len(unreadable)
    return Audit(name, len(specs), found, len(chosen), uncommitted, tuple(machines), tuple(faults), tuple(notes))


def _machine(environment: Mapping[str, Any]) -> str:
    """Return the properties that decide the order of floating-point sums."""
    names = ("torch", "device_name", "processor", "sparse_kernels")
    return " ".join(f"{name} {environment.get(name)}" for name in names)


def inconsistencies(record: RunRecord, store: Store) -> list[str]:
    """Return the contradictions of `record` to itself, its specification and its mask file."""
    pruning, metrics = record.pruning, record.metrics
    if pruning is None or metrics is None:
        return ["it has no pruning or no metrics"]
    found = []
    if not _number_as_requested(record.spec, pruning):
        found.append(f"{pruning.prunable - pruning.kept} of {pruning.prunable} weights pruned")
    updated = pruning.initial_mask_digest is not None  # weights that grew are zero until their next step
    if pruning.realised_sparsity < pruning.sparsity or (pruning.realised_sparsity > pruning.sparsity and not updated):
        found.append(f"sparsity {pruning.sparsity} of the masks, {pruning.realised_sparsity} of the weights")
    for epoch in record.curve:
        if epoch.realised_sparsity != pruning.sparsity and not updated:
            found.append(f"sparsity {epoch.realised_sparsity} of the weights after epoch {epoch.epoch}")
    sums = [sum(layer.prunable for layer in pruning.layers), sum(layer.kept for layer in pruning.layers)]
    if sums != [pruning.prunable, pruning.kept]:
        found.append("the sums over its layers are not its totals")
    masks = store.read_masks(record)
    if masks is None:
        found.append("its mask file is missing or has another digest")
    elif [int(mask.sum()) for mask in masks.values()] != [layer.kept for layer in pruning.layers]:
        found.append("its masks keep other numbers of weights than its layers state")
    stated = {**msgspec.structs.asdict(pruning), **msgspec.structs.asdict(metrics)}
    found += [
        f"{name} is {stated[name]}, but its layers and epochs give {value}"
        for name, value in {**_from_layers(pruning), **_from_epochs(record, metrics)}.items()
        if stated[name] != value
    ]
    epochs = [epoch.epoch for epoch in record.curve]
    least = record.spec.recipe.epochs if record.status == "done" else 0
    most = {"done": least, "collapsed": 0}.get(record.status, record.spec.recipe.epochs - 1)
    if epochs:  # a run that is rewound to an epoch begins with that epoch
        begin = epochs[0] - 1 if record.spec.options.get("rewind") else 0
        epochs = [*range(1, begin + 1), *epochs]
    if epochs != list(range(1, len(epochs) + 1)) or not least <= len(epochs) <= most:
        found.append(f"{record.status} after {len(epochs)} of {record.spec.recipe.epochs} epochs")
    if not record.environment.get("pbt_bench"):
        found.append("the version of the code that made it is missing")
    return found


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
            close = None not in (stated, last) and isclose(stated, last, rel_tol=1e-3, abs_tol=_ROUNDED)
            found[name] = stated if close else last
        if best == curve[-1].epoch:
            found["test_accuracy_at_best_validation"] = metrics.test_accuracy
    return found


def _recompute(record: RunRecord, executor: Executor, retrain: bool) -> list[str]:
    if retrain:
        other = executor.execute(record.spec).record
        if other.status == "failed":
            return [f"recomputing it failed: {other.error_line}"]
    else:
        try:
            pruning = executor.pruning(record.spec)
            if record.pruning and record.pruning.initial_mask_digest:  # of the final masks only the training decides
                digest = pruning.mask_digest
                pruning = msgspec.structs.replace(record.pruning, initial_mask_digest=digest)
            other = msgspec.structs.replace(record, pruning=pruning)
        except Exception as error:  # for example, the dataset is missing or the method changed
            return [f"recomputing it failed: {type(error).__name__}: {error}"]
    old, new = (dict(_leaves(numbers(each))) for each in (record, other))
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if mask_metrics(record):
        metrics = [dict(_leaves(mask_metrics(each))) for each in (record, other)]
        differing += [name for name, value in metrics[0].items() if not _close(value, metrics[1].get(name))]
        old, new = old | metrics[0], new | metrics[1]
    found = [f"recomputed, its {name} is {new.get(name)}, not {old.get(name)}" for name in differing[:_SHOWN]]
    return found + [f"and {len(differing) - _SHOWN} more values"] * (len(differing) > _SHOWN)


def _close(old: float | None, new: float | None) -> bool:
    """Return whether two values of a mask metric agree; another processor or number of threads rounds differently."""
    return old == new if old is None or new is None else isclose(old, new, rel_tol=_ROUNDED_METRIC, abs_tol=1e-9)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every number and text of plain data."""
    if isinstance(value, (dict, list, tuple)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _number_as_requested(spec: RunSpec, pruning: Pruning) -> bool:
    """Return whether the number of pruned weights is the one that sparsity and pattern define."""
    pruned, expected = pruning.prunable - pruning.kept, pruned_count(spec.sparsity, pruning.prunable)
    pattern = parse(spec.pattern) if spec.sparsity else None
    if pattern is None:
        return pruned == expected
    if pattern.group is None:
        return pruned >= expected
    return pruning.kept == n_of_m_kept({layer.name: layer.shape for layer in pruning.layers}, *pattern.group)
