"""Tests of the result store: atomic writes, strict reads, and errors for unreadable files."""

from __future__ import annotations

import os
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from pbt_bench.errors import RequestError, StoreError
from pbt_bench.running.record import Layer, Pruning, RunRecord, digest
from pbt_bench.running.store import HOST, MACHINE, Store, content, find
from pbt_bench.spec import Recipe, RunSpec


def record(seed: int = 0, error: str | None = "boom") -> RunRecord:
    spec = RunSpec(dataset="digits", model="vgg8", method="snip", sparsity=0.9, seed=seed)
    return RunRecord(run_id=spec.run_id, status="failed", spec=spec, error=error)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "study")
    found.prepare()
    return found


def test_what_is_written_is_read_back(store: Store) -> None:
    records = sorted((record(seed) for seed in range(5)), key=lambda r: r.run_id)
    for each in records:
        store.write(each)
    assert store.records() == records
    assert store.records({records[1].run_id, "0" * 16}) == [records[1]]
    assert sorted(os.listdir(store.runs)) == [f"{r.run_id}.json" for r in records]
    assert [each for _, each in find(store.folder.parent, records[2].run_id[:12])] == [records[2]]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"run_id": "x"}', b"null", b"1" * 10_000, b'{"a": ' * 5_000],
    ids=["empty", "half", "list", "binary", "fields", "null", "number", "deep"],
)
def test_a_corrupt_record_is_named_and_skipped(
    store: Store, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = record(0), record(1)
    store.write(good)
    store.path(bad.run_id).write_bytes(content)
    assert store.records() == [good]
    warning = capsys.readouterr().err
    assert str(store.path(bad.run_id)) in warning
    assert warning.count("\n") == 1


def test_a_record_under_a_wrong_name_or_with_an_edited_spec_is_refused(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.path("0123456789abcdef").write_bytes(record().to_json())
    edited = record().to_json().replace(b'"sparsity": 0.9', b'"sparsity": 0.8')
    store.path(record().run_id).write_bytes(edited)
    assert store.records() == []
    assert capsys.readouterr().err.count("it describes run") == 2


def test_a_failed_write_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device; finished runs are kept"):
        store.write(record())
    assert os.listdir(store.runs) == []


def test_a_record_is_never_written_in_place(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(record(error="first"))
    seen: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(store.path(record().run_id).read_bytes()))
    store.write(record(error="second"))
    assert b"first" in seen[0]
    assert b"second" in store.path(record().run_id).read_bytes()


def done(seed: int = 0, masks: dict[str, np.ndarray] | None = None) -> RunRecord:
    masks = masks or {"a": np.ones(2, dtype=bool)}
    layers = tuple(
        Layer(name=name, shape=mask.shape, prunable=mask.size, kept=int(mask.sum()), zero_scores=0)
        for name, mask in masks.items()
    )
    shares = ("sparsity", "realised_sparsity", "effective_sparsity", "zero_score_share", "scoring_seconds")
    counts = ("prunable", "kept", "collapsed_layers", "flops_dense", "flops_sparse", "rounds")
    pruning = Pruning(
        **dict.fromkeys(shares, 0.5),  # type: ignore[arg-type]
        **dict.fromkeys(counts, 1),  # type: ignore[arg-type]
        layers=layers,
        mask_digest=digest(masks),
    )
    return replace(record(seed), status="done", error=None, pruning=pruning)


def test_a_finished_run_is_not_executed_again_and_a_failed_one_on_request(store: Store) -> None:
    good, bad = done(0), record(1)
    assert store.finished(good.run_id) is None
    for each in (good, bad):
        store.write(each)
    assert store.finished(good.run_id) == store.finished(good.run_id, retry_failed=True) == good
    assert store.finished(bad.run_id) == bad
    assert store.finished(bad.run_id, retry_failed=True) is None


def test_the_state_of_an_unfinished_run_is_kept_until_it_ends(store: Store) -> None:
    good, bad = done(0), record(1)
    states = [store.folder / "checkpoints" / f"{each.run_id}.pt" for each in (good, bad)]
    states[0].parent.mkdir()
    for path, each in zip(states, (good, bad), strict=True):
        path.write_text("state")
        assert store.checkpoint(each.run_id) == path
        store.write(each)
    assert [path.exists() for path in states] == [False, True], "a retry goes on from it"


def test_what_finished_runs_left_behind_is_swept(store: Store) -> None:
    good, bad, unknown = done(0), record(1), done(2)
    store.write(good)
    store.write(bad)
    left = {}
    for each in (good, bad, unknown):
        left[each.run_id] = [store.checkpoint(each.run_id), store.folder / "claims" / f"{each.run_id}.1"]
        for path in left[each.run_id]:
            path.parent.mkdir(exist_ok=True)
            path.write_text("left")
    store.prepare()
    assert {run_id: [path.exists() for path in paths] for run_id, paths in left.items()} == {
        good.run_id: [False, False], bad.run_id: [True, True], unknown.run_id: [True, True],
    }  # fmt: skip


def test_a_file_that_another_machine_writes_is_swept_after_an_hour(store: Store) -> None:
    fresh, old = (store.runs / f".{name}.otherhost.1.tmp" for name in ("fresh", "old"))
    for path, age in ((fresh, 3500), (old, 3700)):
        path.write_text("half")
        os.utime(path, (time.time() - age,) * 2)
    store.prepare()
    assert (fresh.exists(), old.exists()) == (True, False)


@pytest.mark.parametrize("size", [1, 7, 8, 13, 16])
def test_masks_of_any_size_come_back(store: Store, size: int) -> None:
    bits = np.random.default_rng(0).random(size + 6) < 0.5
    masks = {"a": bits[:size], "b": bits[size:].reshape(2, 3)}
    each = done(0, masks)
    store.write(each, masks)
    assert (store.folder / "masks" / f"{each.run_id}.bits").exists()
    back = store.read_masks(each)
    assert back is not None
    assert {name: mask.tolist() for name, mask in back.items()} == {name: mask.tolist() for name, mask in masks.items()}


def test_pipes_and_huge_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"12345")
    monkeypatch.setattr("pbt_bench.running.store.MOST_BYTES", 5)
    assert content(tmp_path / "file") == b"12345"
    with pytest.raises(ValueError, match="not a file of at most 5 bytes"):
        content(tmp_path / "pipe")
    monkeypatch.setattr("pbt_bench.running.store.MOST_BYTES", 4)
    with pytest.raises(ValueError, match="not a file of at most 4 bytes"):
        content(tmp_path / "file")


def test_the_beginning_of_several_run_ids_is_refused_with_some_of_them(store: Store) -> None:
    paths = [store.path(f"0{number:015x}") for number in range(7)]
    for path in paths:
        path.write_text("x")
    named = ", ".join(path.stem for path in paths[:5])
    with pytest.raises(RequestError, match=rf"run '00': 7 records in .* begin with it \({named}\)"):
        find(store.folder.parent, "00")
    with pytest.raises(RequestError, match=r"run '1': 0 records in .* \(none\)"):
        find(store.folder.parent, "1")
    with pytest.raises(RequestError, match=f"{paths[3].stem}.json cannot be read"):
        find(store.folder.parent, paths[3].stem)


def test_half_written_files_of_dead_processes_are_swept(store: Store) -> None:
    store.write(record())
    mine = store.path("x").with_name(f".x.{MACHINE}.{os.getpid()}.tmp")
    dead = mine.with_name(mine.name.replace(f".{os.getpid()}.", ".999999999."))
    others = [mine.with_name(f".x.{machine}.999999999.tmp") for machine in ("otherhost", HOST, f"{HOST}-0-1")]
    for path in (mine, dead, *others):
        path.write_text("half")
    store.prepare()
    assert (mine.exists(), dead.exists(), *(other.exists() for other in others)) == (True, False, True, True, True)
    assert len(store.records()) == 1


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="file is a file, not a folder"):
        Store(tmp_path / "file" / "study").prepare()


def test_find_refuses_what_is_not_a_run_id(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is not a run id"):
        find(tmp_path, "../*")
    with pytest.raises(RequestError, match="0 records"):
        find(tmp_path, "abcd")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (None, None),
        ("  \n", None),
        ("ValueError: x\nmore", "ValueError: x"),
        ("Traceback (...):\n  File a.py, line 1\nKeyError: 'x'\n", "KeyError: 'x'"),
        ("Traceback (...):\n  File a.py\n    f()\n    ^^^\nE: one\n\ntwo\n", "E: one two"),
        ("Traceback (...):\n  File a.py\n    f()\nE: " + "x" * 1000, "E: " + "x" * 297),
        ("Traceback (...):\n  File a.py\n    f()\n  [Previous line repeated 9 more times]\nE: deep", "E: deep"),
        ("x" * 1000, "x" * 300),
        ("E: \x1b[2J\x07 \udc80 é", "E: ?[2J? ? é"),
    ],
)
def test_the_error_line_is_the_one_with_the_message(error: str | None, line: str | None) -> None:
    assert record(error=error).error_line == line


def test_masks_come_back_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    from pbt_bench.running.execute import Executor

    executor = Executor(tmp_path, torch.device("cpu"))
    spec = RunSpec(dataset="digits", model="vgg8", method="magnitude", sparsity=0.9, seed=0, recipe=Recipe(epochs=0))
    executed = executor.execute(spec)
    done, stored = executed.record, executed.masks
    store = Store(tmp_path / "study")
    store.prepare()
    store.write(done, stored)
    assert stored is not None
    back = store.read_masks(done)
    assert back is not None
    assert all(np.array_equal(back[name], mask) for name, mask in stored.items())
    path = store.masks / f"{done.run_id}.bits"
    for damage in (path.read_bytes()[:-20], b"", zlib.compress(b"\0" * 10_000), zlib.compress(b"\0")):
        path.write_bytes(damage)
        assert store.read_masks(done) is None
