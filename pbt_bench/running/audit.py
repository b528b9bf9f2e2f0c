"""Check that repeating the runs of a study would give the same records.

Every record is checked against itself, its mask file, its dataset and the other records. The pruning of a sample of
runs is recomputed from their specifications alone; on request the whole training is repeated too.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose, sqrt
from pathlib import Path
from typing import Any

import msgspec
import torch

from pbt_bench.errors import counted, printable, shortened
from pbt_bench.running.audit_log import Extent, Kind, Verdict, add_verdicts
from pbt_bench.running.consistency import References, copies, inconsistencies, same_masks
from pbt_bench.running.environment import MACHINE_PARTS, describe
from pbt_bench.running.execute import Executor
from pbt_bench.running.matching import find_others, revision_note
from pbt_bench.running.record import RunRecord, mask_metrics, numbers
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec

_ROUNDED_METRIC = 1e-3  # relative: rounding may change the side of a rectifier for a few activations
_ROUNDED_MASK = 0.02  # share of the kept weights
_DEVIATIONS = 3  # standard deviations of the difference of two accuracies
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
    elsewhere: tuple[tuple[RunSpec, Kind, str], ...] = ()  # made on another machine, with other bits but no fault
    absent: tuple[str, ...] = ()  # what a complete study has not: runs without a result, unrecognised files
    seed: int | None = None  # of the sample, if there is one

    def text(self) -> str:
        """Return a summary line, notes, and one line per fault."""
        bad = len({spec.run_id for spec, _ in self.faults})
        lines = [f"{self.name}: {self.records - bad} of {self.records} verified, {self.recomputed} of them recomputed"]
        if self.seed is not None:
            lines.append(f"note: --seed {self.seed} draws the same sample")
        lines += [f"note: {text}" for text in (*self.absent, *self.notes)]
        if self.uncommitted:
            lines.append(f"note: {self.uncommitted} were made by code with uncommitted changes")
        if self.other_machines and (self.faults or self.elsewhere):
            made = ", ".join(self.other_machines)
            lines.append(f"note: made with {made}; on this machine the last bits of a score may differ")
        lines += [f"{kind}: {spec.label} ({spec.run_id}): {text}" for spec, kind, text in self.elsewhere]
        lines += [f"fault: {spec.label} ({spec.run_id}): {fault}" for spec, fault in self.faults]
        return "\n".join(map(printable, lines))


def audit(
    name: str,
    specs: Sequence[RunSpec],
    store: Store,
    data: Path,
    device: str,
    sample: int,
    retrain: bool,
    seed: int | None = None,
    by: str = "",
) -> Audit:
    """Check all records of `specs` and recompute `sample` of them; with `retrain`, repeat their training too.

    The sample is drawn from `seed`, by default a fresh one, so that it has every method, model and sparsity as equally
    often as it can. Of records that share a mask although their settings differ, two are recomputed in addition. A
    record that cannot be read, or whose content belongs to another run, is a fault. The verdicts are kept beside the
    records. Superseded records, and records of methods, models and datasets whose file is gone, are checked against
    themselves alone.
    """
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    wanted = {spec.run_id: spec for spec in specs}
    others = find_others(store, wanted)
    present = store.names() | store.migrated.keys()
    newer = failed = 0
    records: list[RunRecord] = []
    unreadable: list[RunSpec] = []
    faults: list[tuple[RunSpec, str]] = []
    executor = Executor(data, torch.device(device))
    references = References(executor.dataset)
    for spec in specs:
        if spec.run_id not in present:
            continue
        record = store.read(spec.run_id)
        if record is None and store.is_newer(spec.run_id):
            newer += 1
        elif record is None:
            unreadable.append(spec)
            faults.append((spec, "the record cannot be read, or belongs to another run"))
        elif record.status == "failed":
            failed += 1
        else:
            records.append(record)
    gone = {record.run_id for record in records if "unknown" in revision_note(record.spec)}
    for record in records:
        found = inconsistencies(record, store, None if record.run_id in gone else references)
        faults += [(record.spec, fault) for fault in found]
    for file, _ in others.superseded.values():
        if record := store.read(file):
            faults += [(record.spec, fault) for fault in inconsistencies(record, store)]
    faults += [(record.spec, fault) for record, fault in copies(records)]
    whole = [record for record in records if record.pruning and record.metrics and record.run_id not in gone]
    draws = random.Random(seed)
    chosen = _stratified(whole, sample, draws)
    groups = same_masks(whole)
    suspects = [each for group in draws.sample(groups, min(sample, len(groups))) for each in draws.sample(group, 2)]
    recomputed = {record.run_id: record for record in (*chosen, *suspects)}
    here = describe(torch.device(device))
    elsewhere: list[tuple[RunSpec, Kind, str]] = []
    # Runs of a group share data and statistics.
    for record in sorted(recomputed.values(), key=lambda record: repr(record.spec.group)):
        different, kind = _recompute(record, executor, store, retrain)
        if kind in ("rounding", "undecided") and _elsewhere(record.environment, here):
            elsewhere.append((record.spec, kind, different[-1]))
        else:
            faults += [(record.spec, fault) for fault in different]
    uncommitted = sum(
        bool(record.environment.get("dirty")) or str(record.environment.get("commit")).endswith("+changes")
        for record in records
    )
    extent: Extent = "training" if retrain else "masks"
    verdicts = {record.run_id: Verdict(extent if record.run_id in recomputed else "record") for record in records}
    verdicts |= {spec.run_id: Verdict(extent, kind, text) for spec, kind, text in elsewhere}
    for spec, text in reversed(faults):
        verdicts[spec.run_id] = Verdict(verdicts.get(spec.run_id, Verdict("record")).extent, "fault", text)
    add_verdicts(store, {run_id: msgspec.structs.replace(each, by=by) for run_id, each in verdicts.items()})
    reasons = Counter(why for _, why in others.superseded.values()).most_common()
    notes = [f"{counted(count, 'record')} superseded: {why}" for why, count in reasons]
    mixed = sum(bool(record.environment.get("mixed")) for record in records)
    masked = store.masked()
    unmasked = sum(record.run_id not in masked for record in records)
    notes += [f"{counted(count, 'record')} {text}" for count, text in (
        (len(others.migrated), "migrated from an earlier version"),
        (newer, "written by a newer pbt-bench, and not checked"),
        (len(gone), "not recomputed: the file of the method, model or dataset is gone"),
        (unmasked, "without stored masks: of those that are recomputed, the digests are compared"),
        (mixed, "continued by other code or on another kind of processor"),
    ) if count]  # fmt: skip
    if references.missing:
        notes.append(f"records are not compared with what is not there: {', '.join(sorted(references.missing))}")
    if not sample and groups:
        notes.append(f"{counted(len(groups), 'group')} of runs with different settings share a mask: recompute some")
    others_made = [record.environment for record in recomputed.values() if _elsewhere(record.environment, here)]
    machines = sorted(set(map(_machine, others_made)))
    total = len(records) + len(unreadable)
    return Audit(
        name, len(specs), total, len(recomputed), uncommitted, tuple(machines), tuple(faults), tuple(notes),
        tuple(elsewhere), tuple(_absent(specs, store, others.superseded, total, failed, newer)),
        seed if recomputed else None,
    )  # fmt: skip


def _stratified(records: Sequence[RunRecord], size: int, draws: random.Random) -> list[RunRecord]:
    """Draw `size` records, each of the method, then the sparsity, then the model that were drawn least so far."""
    left = sorted(records, key=lambda record: record.run_id)
    draws.shuffle(left)
    seen: Counter[object] = Counter()

    def parts(record: RunRecord) -> list[object]:
        spec = record.spec
        return [("method", spec.variant), ("sparsity", spec.sparsity), ("model", spec.dataset, spec.model)]

    chosen: list[RunRecord] = []
    while left and len(chosen) < size:
        record = min(left, key=lambda record: [seen[part] for part in parts(record)])
        left.remove(record)
        seen.update(parts(record))
        chosen.append(record)
    return chosen


def _absent(
    specs: Sequence[RunSpec],
    store: Store,
    superseded: Mapping[str, tuple[str, str]],
    records: int,
    failed: int,
    newer: int,
) -> Iterator[str]:
    """Yield what a complete study has not: runs without a result, and files that are no records of a run."""
    if records < len(specs):
        why = [f"{count} {what}" for count, what in ((failed, "failed"), (newer, "newer")) if count]
        yield f"{len(specs) - records} of {len(specs)} runs have no result" + (f" ({', '.join(why)})" if why else "")
    known = {spec.run_id for spec in specs} | set(store.migrated.values()) | {name for name, _ in superseded.values()}
    unknown = [name for name in sorted(store.names() - known) if not _is_record(store, name)]
    if unknown:
        yield f"{counted(len(unknown), 'file')} in {store.runs} no records of a run: {shortened(unknown)}"


def _is_record(store: Store, name: str) -> bool:
    return store.is_newer(name) or store.read(name) is not None


def _machine(environment: Mapping[str, Any]) -> str:
    """Name the properties that decide the order of floating-point sums."""
    text = " ".join(f"{name} {environment[name]}" for name in MACHINE_PARTS if name in environment)
    return f"{text} and others" if environment.get("mixed") else text


def _elsewhere(environment: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Return whether a run was made by another machine than `here`; records of early versions name no model."""
    known = [name for name in MACHINE_PARTS if name in environment]
    return bool(environment.get("mixed")) or any(environment[name] != here[name] for name in known)


def _recompute(record: RunRecord, executor: Executor, store: Store, retrain: bool) -> tuple[list[str], Kind]:
    """Recompute a record. Return the differences, of which the last says how large they are, and their kind."""
    try:
        if retrain:
            executed = executor.execute(record.spec)
            other, masks = executed.record, executed.masks
            if other.status == "failed":
                return [f"recomputing it failed: {other.error_line}"], "fault"
        else:
            network = executor.mask(record.spec)
            pruning = network.pruning
            masks = {name: mask.cpu().numpy() for name, mask in network.masks.items()}
            if record.pruning and record.pruning.initial_mask_digest:  # of the final masks only the training decides
                digest = pruning.mask_digest
                pruning, masks = msgspec.structs.replace(record.pruning, initial_mask_digest=digest), None
            other = msgspec.structs.replace(record, pruning=pruning)
    except Exception as error:  # for example, the dataset is missing or the method changed
        return [f"recomputing it failed: {type(error).__name__}: {error}"], "fault"
    old, new = (dict(_leaves(numbers(each))) for each in (record, other))
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if mask_metrics(record):
        metrics = [dict(_leaves(mask_metrics(each))) for each in (record, other)]
        differing += [name for name, value in metrics[0].items() if not _close(value, metrics[1].get(name))]
        old, new = old | metrics[0], new | metrics[1]
    if not differing:
        return [], "equal"
    found = [f"recomputed, its {name} is {new.get(name)}, not {old.get(name)}" for name in differing[:_SHOWN]]
    found += [f"and {len(differing) - _SHOWN} more values"] * (len(differing) > _SHOWN)
    images = len(executor.dataset(record.spec.dataset).test)
    text, kind = _size(record, other, store.read_masks(record), masks, images)
    return [*found, *filter(None, [text])], kind


def _size(
    old: RunRecord,
    new: RunRecord,
    old_masks: Mapping[str, Any] | None,
    new_masks: Mapping[str, Any] | None,
    images: int,
) -> tuple[str, Kind]:
    """Describe the differences of masks and accuracies, and say whether the rounding of another processor gives them.

    Rounding changes the rank of a few weights near the threshold. Rounds of scores, and a training, magnify it: the
    masks can then be as different as those of two seeds, and accuracies on `images` differ by chance at least.
    """
    assert old.pruning
    assert old.metrics
    assert new.metrics
    assert new.pruning
    if old_masks is None:  # they are not stored, or damaged, which is a fault of its own
        if old.pruning.mask_digest != new.pruning.mask_digest:
            return "its masks are not stored, so the number of different weights is unknown", "undecided"
        old_masks = new_masks
    if old_masks is None or new_masks is None or old_masks.keys() != new_masks.keys():
        return "", "fault"
    count = sum(int((old_masks[name] != new_masks[name]).sum()) for name in old_masks)
    few = count <= _ROUNDED_MASK * old.pruning.kept
    magnified = old.pruning.rounds > 1 or old.pruning.initial_mask_digest is not None
    text = f"masks differ in {count} of {old.pruning.prunable} weights" if count else "masks are equal"
    if new.metrics is old.metrics:  # masks alone were recomputed
        return text, "rounding" if few and count else "undecided" if magnified and count else "fault"
    before, after = old.metrics.test_accuracy, new.metrics.test_accuracy
    variance = (before * (1 - before) + after * (1 - after)) / images
    within = abs(before - after) <= _DEVIATIONS * sqrt(variance) + 1 / images
    text += f"; accuracy {after}, not {before}, {'within' if within else 'beyond'} what another processor gives"
    if few or magnified:
        return text, "rounding" if within else "fault" if few else "undecided"
    return text, "fault"


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
