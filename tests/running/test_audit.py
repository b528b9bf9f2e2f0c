"""Tests that an audit verifies correct records and finds changed records."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from pbt_bench.analysis.pages.rendering import render
from pbt_bench.models import MODELS, Model
from pbt_bench.running.audit import Audit, audit
from pbt_bench.running.audit_log import audited_records
from pbt_bench.running.consistency import inconsistencies
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
        executed = executor.execute(spec)
        assert executed.record.status == "done", executed.record.error
        store.write(executed.record, executed.masks)
    return folder


def audited(folder: Path, sample: int = 10, retrain: bool = False, specs: Sequence[RunSpec] = SPECS) -> Audit:
    return audit("study", specs, Store(folder), folder, "cpu", sample, retrain)


def first_line(found: Audit) -> str:
    assert not found.faults, found.text()
    return found.text().splitlines()[0]


def test_sound_records_are_verified_to_the_last_bit(made: Path) -> None:
    assert first_line(audited(made, retrain=True)) == "study: 5 of 5 verified, 5 of them recomputed"
    assert first_line(audited(made, sample=2)) == "study: 5 of 5 verified, 2 of them recomputed"


def test_a_divergence_that_leaves_finite_weights_is_no_contradiction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_layer(channels: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, classes))

    monkeypatch.setitem(MODELS._entries, "one_layer", (Model("", "", "", "", own=one_layer), __file__))
    # The losses of the training images overflow when they are added; those of the fewer test images do not.
    recipe = Recipe(epochs=2, learning_rate=1e36, momentum=0, weight_decay=0, batch_size=64, schedule="constant")
    wanted = RunSpec(
        dataset="digits", model="one_layer", method="magnitude", sparsity=0.5, seed=0, recipe=recipe,
    )  # fmt: skip
    executed = Executor(tmp_path, torch.device("cpu")).execute(wanted)
    record, pruning = executed.record, executed.record.pruning
    assert record.status == "diverged"
    assert record.metrics is not None
    assert record.metrics.test_loss is not None
    store = Store(tmp_path / "study")
    store.prepare()
    store.write(record, executed.masks)
    assert not inconsistencies(record, store)
    invented = msgspec.structs.replace(record, pruning=msgspec.structs.replace(pruning, notes={}))
    assert inconsistencies(invented, store) == ["diverged, but the losses of its final weights are finite"]


def changed(part: str = "pruning", **values: Any) -> Callable[[RunRecord], RunRecord]:
    """Return the record with `values` in its metrics, pruning, first epoch, or top level."""

    def change(record: RunRecord) -> RunRecord:
        if part == "record":
            return msgspec.structs.replace(record, **values)
        old: Any = record.curve[0] if part == "curve" else getattr(record, part)
        new = msgspec.structs.replace(old, **values)
        return msgspec.structs.replace(record, **{part: (new, *record.curve[1:]) if part == "curve" else new})

    return change


def more_kept(record: RunRecord) -> RunRecord:
    """Let one layer keep one weight more, and another layer one less."""
    assert record.pruning
    first, second, *rest = record.pruning.layers
    moved = (msgspec.structs.replace(first, kept=first.kept + 1), msgspec.structs.replace(second, kept=second.kept - 1))
    return changed(layers=(*moved, *rest))(record)


def more_paths(record: RunRecord) -> RunRecord:
    assert record.pruning
    return changed(mask_metrics=msgspec.structs.replace(record.pruning.mask_metrics, log10_paths=40.0))(record)


def without_mask_metrics(record: RunRecord) -> RunRecord:
    """Return the record as an earlier version would have written it."""
    assert record.pruning
    rows = (msgspec.structs.replace(row, live_units=None, ramanujan_gap=None) for row in record.pruning.layers)
    return changed(mask_metrics=None, layers=tuple(rows))(record)


def found_in(folder: Path, change: Callable[[RunRecord], RunRecord], **audited_as: Any) -> Audit:
    """Return the report of an audit while the record of the first pruned run is changed."""
    path = Store(folder).path(SPECS[1].run_id)
    sound = path.read_bytes()
    record = Store(folder).read(SPECS[1].run_id)
    assert record is not None
    try:
        path.write_bytes(change(record).to_json())
        return audited(folder, **audited_as)
    finally:
        path.write_bytes(sound)


BY_ITSELF: dict[str, tuple[Callable[[RunRecord], RunRecord], str]] = {
    "kept": (changed(kept=1), "weights pruned"),
    "prunable": (changed(prunable=80000), "of 80000 weights pruned"),
    "sparsity": (changed(sparsity=0.95), "sparsity is 0.95, but its layers, epochs and specification give 0.9"),
    "realised": (changed(realised_sparsity=0.0), "of the masks, 0.0 of the weights"),
    "epoch": (changed("curve", realised_sparsity=0.0), "sparsity 0.0 of the weights after epoch 1"),
    "digest": (changed(mask_digest="0" * 64), "its mask file has another digest"),
    "no layers": (changed(layers=()), "the sums over its layers are not its totals"),
    "other layers": (more_kept, "its masks keep other numbers of weights than its layers state"),
    "collapsed": (
        changed(collapsed_layers=3),
        "collapsed_layers is 3, but its layers, epochs and specification give 0",
    ),
    "zeros": (
        changed(zero_score_share=0.75),
        "zero_score_share is 0.75, but its layers, epochs and specification give 0.",
    ),
    "curve": (changed("record", curve=()), "done after 0 of 1 epochs"),
    "count": (changed("curve", epoch=2), "done after 1 of 1 epochs"),
    "status": (changed("record", status="collapsed"), "collapsed after 1 of 1 epochs"),
    "diverged": (changed("record", status="diverged"), "diverged after 1 of 1 epochs"),
    "loss": (changed("metrics", train_loss=0.5), "train_loss is 0.5, but its layers, epochs and specification give"),
    "held": (
        changed("metrics", validation_accuracy=0.99),
        "validation_accuracy is 0.99, but its layers, epochs and specification give",
    ),
    "best": (
        changed("metrics", best_validation_epoch=7),
        "best_validation_epoch is 7, but its layers, epochs and specification give 1",
    ),
    "accuracy": (changed("metrics", test_accuracy=0.99), "test_accuracy_at_best_validation is"),
    "no metrics": (changed("record", metrics=None), "it has no pruning or no metrics"),
    "no code": (changed("record", environment={}), "the version of the code that made it is missing"),
    "id": (changed("record", run_id="0" * 16), "cannot be read, or belongs to another run"),
    "spec": (lambda r: changed("record", spec=msgspec.structs.replace(r.spec, seed=1))(r), "or belongs to another run"),
}


@pytest.mark.parametrize(("change", "reason"), BY_ITSELF.values(), ids=BY_ITSELF)
def test_a_record_that_was_changed_is_a_fault(
    made: Path, change: Callable[[RunRecord], RunRecord], reason: str
) -> None:
    found = found_in(made, change, sample=0)
    assert any(reason in what and spec == SPECS[1] for spec, what in found.faults), found.text()
    assert "4 of 5 verified" in found.text()


ANEW: dict[str, tuple[Callable[[RunRecord], RunRecord], bool]] = {
    "pruning.mask_digest": (changed(mask_digest="0" * 64), False),
    "pruning.effective_sparsity": (changed(effective_sparsity=0.5), False),
    "pruning.flops_sparse": (changed(flops_sparse=1), False),
    "pruning.rounds": (changed(rounds=100), False),
    "pruning.mask_metrics.log10_paths": (more_paths, False),
    "metrics.weights_digest": (changed("metrics", weights_digest="0" * 64), True),
    "metrics.test_accuracy": (changed("metrics", test_accuracy=0.99, test_accuracy_at_best_validation=0.99), True),
    "metrics.test_loss": (changed("metrics", test_loss=0.1), True),
    "metrics.chance_accuracy": (changed("metrics", chance_accuracy=0.01), True),
    "metrics.best_test_accuracy_over_epochs": (changed("metrics", best_test_accuracy_over_epochs=0.9), True),
    "curve.0.train_accuracy": (changed("curve", train_accuracy=0.9), True),
    "curve.0.learning_rate": (changed("curve", learning_rate=1.0), True),
}


@pytest.mark.parametrize(("place", "change", "retrain"), [(place, *what) for place, what in ANEW.items()], ids=ANEW)
def test_a_consistent_wrong_number_is_a_fault_once_it_is_recomputed(
    made: Path, place: str, change: Callable[[RunRecord], RunRecord], retrain: bool
) -> None:
    found = found_in(made, change, retrain=retrain, specs=SPECS[1:2])
    assert f"recomputed, its {place} is " in found.text()
    assert "0 of 1 verified" in found.text()


def test_a_record_without_mask_metrics_is_sound(made: Path) -> None:
    assert not found_in(made, without_mask_metrics, retrain=True, specs=SPECS[1:2]).faults


def test_what_has_no_result_and_what_no_commit_holds_is_said(made: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    record = Store(made).read(SPECS[1].run_id)
    assert record is not None
    changes = msgspec.structs.replace(record, environment={**record.environment, "commit": "abc+changes"})
    store.write(changes, Store(made).read_masks(record))
    assert audited(tmp_path, sample=0).text().splitlines() == [
        "study: 1 of 1 verified, 0 of them recomputed",
        "note: 4 of 5 runs have no result",
        "note: 1 were made by code with uncommitted changes",
    ]


def test_a_mask_that_was_exchanged_is_a_fault(made: Path) -> None:
    store = Store(made)
    mine, other = (store.masks / f"{spec.run_id}.bits" for spec in (SPECS[1], SPECS[3]))
    sound = mine.read_bytes()
    try:
        mine.write_bytes(other.read_bytes())
        assert "its mask file" in audited(made, sample=0).text()
    finally:
        mine.write_bytes(sound)


def test_of_masks_that_are_not_stored_the_digest_is_compared(made: Path, tmp_path: Path) -> None:
    sound = tmp_path / "sound" / "study"
    shutil.copytree(made, sound)
    shutil.rmtree(sound / "masks")
    note = "note: 5 records without stored masks: of those that are recomputed, the digests are compared"
    assert note in audited(sound, retrain=True).text()
    assert not audited(sound, retrain=True).faults
    record = Store(sound).read(SPECS[1].run_id)
    assert record
    assert record.pruning
    wrong = msgspec.structs.replace(record.pruning, mask_digest="0" * 64)
    for environment, fault in (({}, True), ({"processor": "PDP-11"}, False)):
        Store(sound).write(msgspec.structs.replace(record, pruning=wrong, environment=record.environment | environment))
        found = audited(sound)
        assert bool(found.faults) is fault
        assert "its masks are not stored" in found.text()
    less = msgspec.structs.replace(record, environment=record.environment | environment)
    Store(sound).write(
        msgspec.structs.replace(less, metrics=msgspec.structs.replace(record.metrics, test_accuracy=0.0))
    )
    assert "accuracy" in audited(sound, retrain=True).text()
    assert audited(sound, retrain=True).faults


def test_a_fault_of_another_machine_says_so(made: Path) -> None:
    def elsewhere(record: RunRecord) -> RunRecord:
        environment = {**record.environment, "processor": "PDP-11"}
        return changed("record", environment=environment)(changed(effective_sparsity=0.123)(record))

    assert "processor PDP-11" in found_in(made, elsewhere).text()
    assert "made with" not in found_in(made, changed(effective_sparsity=0.123)).text()


def test_what_an_audit_recomputed_is_kept_until_the_record_changes(made: Path) -> None:
    store = Store(made)
    ids = [spec.run_id for spec in SPECS]
    (made / "audits.json").unlink(missing_ok=True)
    assert audited_records(store, ids) == {}
    audit("study", SPECS, store, made, "cpu", 1, True)
    ((trained, extent),) = audited_records(store, ids).items()
    assert extent == "training"
    audit("study", SPECS, store, made, "cpu", len(SPECS), False)
    found = audited_records(store, ids)
    assert found == dict.fromkeys(ids, "masks") | {trained: "training"}
    path = store.path(trained)
    before = path.read_bytes()
    path.write_bytes(before + b" ")
    assert set(audited_records(store, ids)) == set(ids) - {trained}
    path.write_bytes(before)
    (made / "audits.json").write_text("[]")
    assert audited_records(store, ids) == {}


def test_the_report_shows_the_verdicts(made: Path) -> None:
    audited(made, sample=len(SPECS))
    found_in(made, changed(effective_sparsity=0.5), sample=0)
    text = (made / "audits.json").read_text()
    assert '"kind":"fault","text":"effective_sparsity is 0.5, but its masks give' in text
    shares = dict.fromkeys(("realised", "exact", "runs", "patterned"), 0)
    verdicts = {"masks": 3, "rounding": 2, "undecided": 1, "fault": 4}
    page = render(
        "sparsity.html.j2", audit=shares, audited=Counter(verdicts), total=9, counts=Counter(), scores=[], zeros=[]
    )
    page = " ".join(page.split())
    assert "recomputed without a fault the masks of 3 of 9 records" in page
    assert "2 differ as the rounding of another processor makes them" in page
    assert "1 differ by more" in page
    assert "It found a fault in 4 of them" in page
