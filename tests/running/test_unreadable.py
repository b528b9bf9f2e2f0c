"""Tests that only a run without a file is missing: unreadable and damaged files are named and never replaced."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from pbt_bench.analysis.records.data_frame import study_frame
from pbt_bench.cli import main
from pbt_bench.errors import RequestError, StoreError, note_once
from pbt_bench.running import store as store_module
from pbt_bench.running.audit import audit
from pbt_bench.running.audit_log import Verdict, add_verdicts, audited_records
from pbt_bench.running.display import plain
from pbt_bench.running.merge import merge, pack
from pbt_bench.running.plan import check_names, plan
from pbt_bench.running.record import RunRecord
from pbt_bench.running.slurm.profile import Profile
from pbt_bench.running.slurm.request import request
from pbt_bench.running.status import summary
from pbt_bench.running.store import Store, find
from pbt_bench.spec import Axes, Grid

AXES = Axes(dataset=("digits",), model=("vgg8",), method=("snip",), sparsity=(0.9,), seed=(0, 1, 2))
GRID = check_names(Grid(name="study", grid=AXES, dense=False), "study.toml")
FIRST, SECOND, THIRD = GRID.runs()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store in which the first run is recorded and the others are absent."""
    found = Store(tmp_path / "study")
    found.prepare()
    found.write(RunRecord.new(FIRST, "failed", error="no"))
    return found


def loop(store: Store) -> Path:
    """Put a file there that gives an error of the system when it is opened: a link to itself."""
    path = store.path(SECOND.run_id)
    path.symlink_to(path.name)
    return path


def broken(number: int) -> Callable[..., bytes]:
    read = store_module.content

    def content(path: Path, most_bytes: int | None = None) -> bytes:
        if path.stem == SECOND.run_id:
            raise OSError(number, os.strerror(number))
        return read(path, most_bytes)

    return content


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ELOOP])
def test_a_file_that_cannot_be_read_is_named_and_its_run_not_repeated(
    store: Store, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store.path(SECOND.run_id)
    path.write_text("{}")
    monkeypatch.setattr(store_module, "content", broken(number))
    line = f"{path} cannot be read ({os.strerror(number)}); it is kept, and its run is not repeated"
    assert store.lookup(SECOND.run_id) == (None, "unreadable", line)
    todo = plan(GRID, store)
    assert [spec.run_id for spec in todo.missing] == [THIRD.run_id]
    assert f"warning: {line}" in todo.notes()
    state = summary(GRID, store, ask_slurm=False)
    assert {name: count for name, count in state.counts.items() if count} == dict.fromkeys(
        ("failed", "unreadable", "missing"), 1
    )
    assert f"unreadable: digits vgg8 snip 0.9 seed 1 ({SECOND.run_id}): {line}" in plain(state)
    capsys.readouterr()
    said: list[str] = []
    request(GRID, store, Profile(), store.folder, dry_run=True, retry_failed=False, say=said.append)
    assert "3 runs: 1 to submit" in said[0]
    assert f"warning: {line}\n" in capsys.readouterr().err
    study_frame(GRID.runs(), store)
    assert line in capsys.readouterr().err
    assert "fault: digits vgg8 snip 0.9 seed 1" in audit("s", GRID.runs(), store, store.folder, "cpu", 0, False).text()
    with pytest.raises(StoreError, match="cannot be read"):
        store.finished(SECOND.run_id)
    store.sweep()
    assert path.read_text() == "{}"


def test_an_unreadable_file_is_never_replaced(store: Store) -> None:
    path = loop(store)
    store.write(RunRecord.new(SECOND, "failed", error="x"))
    assert store.finished(SECOND.run_id)
    assert os.readlink(path.with_name(f"{path.name}.unreadable-1")) == path.name


def test_a_damaged_file_is_kept_under_another_name_when_its_run_is_repeated(store: Store) -> None:
    path = store.path(SECOND.run_id)
    for text in ("{", "[]"):
        path.write_text(text)
        state = summary(GRID, store, ask_slurm=False)
        assert (state.counts["damaged"], state.counts["missing"]) == (1, 1)
        assert f"{path} is not a record" in plain(state)
        assert len(plan(GRID, store).missing) == 2
        store.write(RunRecord.new(SECOND, "failed", error="x"))
    assert [path.with_name(f"{path.name}.unreadable-{n}").read_text() for n in (1, 2)] == ["{", "[]"]
    assert store.names() == {FIRST.run_id, SECOND.run_id}


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_all_readers_agree_on_a_record_with_a_number_that_is_not_finite(store: Store, value: str) -> None:
    table = msgspec.to_builtins(RunRecord.new(SECOND, "failed", error="x"))
    table["environment"] = {"seconds": 1.5, "other": 2.5}
    text = msgspec.json.encode(table)
    for number in (b"1.5", b"2.5", b"0.9"):
        store.path(SECOND.run_id).write_bytes(text.replace(number, value.encode(), 1))
        assert store.lookup(SECOND.run_id).state == "damaged"
        state = summary(GRID, store, ask_slurm=False)
        assert (state.counts["damaged"], state.counts["missing"], state.counts["failed"]) == (1, 1, 1)
        assert len(plan(GRID, store).missing) == 2
        assert study_frame(GRID.runs(), store)["status"].tolist() == ["failed", "missing", "missing"]


def test_a_folder_that_cannot_be_read_is_one_line(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = store.folder.parent / "study.toml"
    grid.write_text(
        'name = "study"\n[grid]\ndataset = "digits"\nmodel = "vgg8"\nmethod = "snip"\nsparsity = 0.9\nseed = 0\n'
    )

    def refused(path: object) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "listdir", refused)
    monkeypatch.setattr(os, "scandir", refused)
    for verb in ("status", "report", "audit"):
        assert main([verb, str(grid), "--results", str(store.folder.parent)]) == 1
        line = f"pbt-bench: error: {store.runs}: records cannot be read: Permission denied\n"
        assert capsys.readouterr().err == line


def test_merge_names_a_file_that_cannot_be_read(store: Store, tmp_path: Path) -> None:
    path = loop(store)
    found = merge([store.folder], tmp_path / "into")
    assert found.unreadable == [f"{path} (Too many levels of symbolic links)"]
    assert found.added == 1
    into = Store(tmp_path / "into")
    assert [record.run_id for record in into.records()] == [FIRST.run_id]


def test_a_log_of_audits_that_is_damaged_is_kept(store: Store) -> None:
    path = store.folder / "audits.json"
    path.write_text("[1")
    add_verdicts(store, {FIRST.run_id: Verdict("masks")})
    assert audited_records(store, [FIRST.run_id]) == {FIRST.run_id: "masks"}
    assert path.with_name("audits.json.unreadable-1").read_text() == "[1"


@pytest.mark.parametrize("part", ["results", "results/study", "results/study/runs"])
@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_link_to_nothing_or_a_file_in_place_of_a_folder_is_named(tmp_path: Path, part: str, kind: str) -> None:
    path = tmp_path / part
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        path.symlink_to("purged")
    else:
        path.write_text("x")
    what = "is a link to purged, which is not there" if kind == "link" else "is a file, not a folder"
    for call in (Store.names, Store.prepare, lambda each: summary(GRID, each, ask_slurm=False)):
        with pytest.raises(RequestError, match=f"{re.escape(str(path))} {what}"):
            call(Store(tmp_path / "results/study"))
    if part == "results":
        with pytest.raises(RequestError, match=what):
            find(path, FIRST.run_id)


def test_a_run_is_found_beside_other_files(store: Store) -> None:
    (store.folder.parent / "notes.txt").write_text("x")
    assert find(store.folder.parent, FIRST.run_id)[0][1].run_id == FIRST.run_id


@pytest.fixture
def nobody() -> Iterator[None]:
    """Drop the rights of root, which no permission stops, for one test."""
    if os.geteuid() == 0:
        os.seteuid(65534)
    yield
    if os.getuid() == 0:
        os.seteuid(0)


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Store]:
    """Return a store that another user can enter."""
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if not folder.stat().st_mode & 0o001:  # those of pytest, and of its worker processes
            folder.chmod(0o755)
    found = Store(tmp_path / "study")
    found.prepare()
    found.masks.mkdir()
    found.write(RunRecord.new(FIRST, "failed", error="no"))
    (found.masks / f"{FIRST.run_id}.bits").write_bytes(b"x")
    yield found
    for folder in (found.folder, found.masks, found.runs):
        folder.chmod(0o755)


def test_folders_of_another_user_are_named(foreign: Store, request: pytest.FixtureRequest) -> None:
    foreign.masks.chmod(0)
    foreign.runs.chmod(0o555)
    request.getfixturevalue("nobody")
    note_once.cache_clear()
    assert foreign.names() == {FIRST.run_id}
    assert foreign.masked() == set()
    assert foreign.mask_fault(FIRST.run_id) == "cannot be read (Permission denied)"
    with pytest.raises(RequestError, match="results cannot be written: Permission denied"):
        foreign.prepare()
    with pytest.raises(StoreError, match="Permission denied"):
        foreign.write(RunRecord.new(SECOND, "failed", error="no"))


def test_a_record_of_another_user_is_unreadable_and_not_packed(foreign: Store, request: pytest.FixtureRequest) -> None:
    foreign.path(FIRST.run_id).chmod(0)
    request.getfixturevalue("nobody")
    assert foreign.lookup(FIRST.run_id).state == "unreadable"
    with pytest.raises(StoreError, match=f"{FIRST.run_id}.json cannot be read: Permission denied"):
        pack(foreign.folder, foreign.folder.parent / "x.pack")
    assert summary(GRID, foreign, ask_slurm=False).counts["unreadable"] == 1


def test_results_of_another_user_are_one_line(foreign: Store, request: pytest.FixtureRequest) -> None:
    foreign.folder.chmod(0)
    request.getfixturevalue("nobody")
    with pytest.raises(StoreError, match="runs: records cannot be read: Permission denied"):
        foreign.names()
