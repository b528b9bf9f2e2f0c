"""Are the records of a study what their runs would give again?

Every record is checked against itself and its mask file; the masks of a sample are computed anew from the run's
specification alone, on request the whole training too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pbt_bench.pruning.masks import pruned_count
from pbt_bench.running.execute import Executor
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec


@dataclass(frozen=True)
class Audit:
    """What was found."""

    name: str
    records: int  # results: without the failed ones
    recomputed: int  # of them, masks (or whole runs) computed anew
    faults: tuple[tuple[RunSpec, str], ...]

    def text(self) -> str:
        """`n of n verified`, and below it every fault."""
        bad = len({spec.run_id for spec, _ in self.faults})
        first = f"{self.name}: {self.records - bad} of {self.records} verified, {self.recomputed} of them computed anew"
        return "\n".join([first, *(f"fault: {spec.label} ({spec.run_id}): {what}" for spec, what in self.faults)])


def audit(
    name: str, specs: Sequence[RunSpec], store: Store, data: Path, device: str, sample: int, retrain: bool
) -> Audit:
    """Check all records of `specs`; compute `sample` of them anew, to the end of the training with `retrain`.

    The sample is the same in every call. A record whose file does not hash to its name, or cannot be read, is a
    fault too: the run that it should be of has no valid record.
    """
    records: list[RunRecord] = []
    faults: list[tuple[RunSpec, str]] = []
    for spec in specs:
        if not store.path(spec.run_id).exists():
            continue
        record = store.read(spec.run_id)
        if record is None:
            faults.append((spec, "the record cannot be read, or is not of this run"))
        elif record.status != "failed":
            records.append(record)
            faults += [(spec, what) for what in inconsistencies(record, store)]
    whole = [record for record in records if record.pruning and record.metrics]
    chosen = random.Random(0).sample(whole, min(sample, len(whole)))
    executor = Executor(data, torch.device(device))
    for record in sorted(chosen, key=lambda record: repr(record.spec.group)):  # groups share data and statistics
        faults += [(record.spec, what) for what in _again(record, executor, retrain)]
    return Audit(name, len(records) + sum("cannot be read" in what for _, what in faults), len(chosen), tuple(faults))


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
    if sum(layer.kept for layer in pruning.layers) != pruning.kept:
        found.append("the layers do not add up")
    if store.read_masks(record) is None:
        found.append("its mask file is missing or has another digest")
    if not record.environment.get("pbt_bench"):
        found.append("the code that made it is unknown")
    return found


def _again(record: RunRecord, executor: Executor, retrain: bool) -> list[str]:
    assert record.pruning
    assert record.metrics
    if retrain:
        other = executor.execute(record.spec)
        if other.pruning is None or other.metrics is None:
            return [f"computed anew it failed: {other.error_line}"]
        digests = [("mask", record.pruning.mask_digest, other.pruning.mask_digest)]
        digests.append(("final weights", record.metrics.weights_digest, other.metrics.weights_digest))
    else:
        try:
            digests = [("mask", record.pruning.mask_digest, executor.mask_digest(record.spec))]
        except Exception as error:  # a dataset that is gone, a method that fails now
            return [f"computed anew it failed: {type(error).__name__}: {error}"]
    return [
        f"computed anew its {what} has the digest {new[:12]}, not {old[:12]}"
        for what, old, new in digests
        if old != new
    ]
