"""An audit finds what a record cannot hide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from pbt_bench.running.audit import Audit, audit
from pbt_bench.running.execute import Executor
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import Recipe, RunSpec, Scoring

RECIPE = Recipe(epochs=1, batch_size=256)
SPECS = [
    RunSpec(
        dataset="digits", model="vgg8", method=method, sparsity=sparsity, seed=0, recipe=RECIPE, sanity=sanity,
        scope=scope, warmup=warmup, scoring=Scoring(samples_per_class=5, batchnorm="calibrated", rounds=3),
    )
    for method, sparsity, sanity, scope, warmup in (
        ("dense", 0.0, "none", "global", "none"),
        ("snip", 0.9, "none", "global", "none"),
        ("synflow", 0.7, "none", "layer", "none"),
        ("magnitude", 0.9, "shuffle", "erk", "2 steps"),
        ("random", 0.5, "reinit", "global", "none"),
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit") / "study"
    store = Store(folder)
    store.prepare()
    executor = Executor(folder, torch.device("cpu"))
    for spec in SPECS:
        record = executor.execute(spec, ("snip", "synflow"))
        assert record.status == "done", record.error
        store.write(record, executor.masks)
    return folder


def audited(folder: Path, sample: int = 10, retrain: bool = False) -> Audit:
    return audit("study", SPECS, Store(folder), folder, "cpu", sample, retrain)


def test_sound_records_are_verified_to_the_last_bit(made: Path) -> None:
    found = audited(made, retrain=True)
    assert found.text() == "study: 5 of 5 verified, 5 of them computed anew"
    assert audited(made, sample=2).text() == "study: 5 of 5 verified, 2 of them computed anew"


def changed(**pruning: Any) -> Callable[[RunRecord], RunRecord]:
    return lambda record: msgspec.structs.replace(record, pruning=msgspec.structs.replace(record.pruning, **pruning))


def first_epoch_dense(record: RunRecord) -> RunRecord:
    epoch = msgspec.structs.replace(record.curve[0], realised_sparsity=0.0)
    return msgspec.structs.replace(record, curve=(epoch, *record.curve[1:]))


def other_weights(record: RunRecord) -> RunRecord:
    return msgspec.structs.replace(record, metrics=msgspec.structs.replace(record.metrics, weights_digest="0" * 64))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changed(kept=1), "weights pruned"),
        (changed(realised_sparsity=0.0), "of the masks, 0.0 of the weights"),
        (first_epoch_dense, "sparsity 0.0 of the weights after epoch 1"),
        (changed(mask_digest="0" * 64), "its mask file is missing or has another digest"),
        (changed(mask_digest="0" * 64), "computed anew its mask has the digest"),
        (changed(layers=()), "the layers do not add up"),
        (other_weights, "computed anew its final weights has the digest"),
        (lambda record: msgspec.structs.replace(record, metrics=None), "without its pruning or its metrics"),
        (lambda record: msgspec.structs.replace(record, environment={}), "the code that made it is unknown"),
        (lambda record: msgspec.structs.replace(record, run_id="0" * 16), "cannot be read, or is not of this run"),
    ],
)
def test_a_record_that_was_changed_is_a_fault(
    made: Path, change: Callable[[RunRecord], RunRecord], reason: str
) -> None:
    store = Store(made)
    path = store.path(SPECS[1].run_id)
    sound = path.read_bytes()
    record = store.read(SPECS[1].run_id)
    assert record is not None
    try:
        path.write_bytes(change(record).to_json())
        found = audited(made, retrain=record.metrics != change(record).metrics and "weights" in reason)
    finally:
        path.write_bytes(sound)
    assert any(reason in what and spec == SPECS[1] for spec, what in found.faults), found.text()
    assert "4 of 5 verified" in found.text()


def test_a_mask_that_was_exchanged_is_a_fault(made: Path) -> None:
    store = Store(made)
    mine, other = (store.masks / f"{spec.run_id}.bits" for spec in (SPECS[1], SPECS[3]))
    sound = mine.read_bytes()
    try:
        mine.write_bytes(other.read_bytes())
        assert "its mask file" in audited(made, sample=0).text()
    finally:
        mine.write_bytes(sound)
