"""Tests of datasets on a node's disk: one copy per node, complete or absent, and of variables in paths."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from pbt_bench.data import datasets
from pbt_bench.errors import RequestError
from pbt_bench.running.slurm.staging import expanded, files_read, staged
from pbt_bench.spec import RunSpec

SPEC = RunSpec(dataset="cifar10", model="vgg8", method="snip", sparsity=0.9, seed=0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "images/a.txt").write_text("a")
    (folder / "file.npz").write_text("1")
    (folder / "other").write_text("not needed")
    return folder


def test_variables_are_expanded_on_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.delenv("TMPDIR", raising=False)
    assert expanded("data", "$SCRATCH/x/${SCRATCH}") == Path("/scratch/me/x/scratch/me")
    assert expanded("data", "/plain") == Path("/plain")
    with pytest.raises(RequestError, match=r"stage = '\$TMPDIR/x': the variable TMPDIR is not set on "):
        expanded("stage", "$TMPDIR/x")


def test_the_copy_is_used_until_the_original_changes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["images", "file.npz", "absent"]
    first = staged(data, names, tmp_path / "disk")
    assert sorted(path.name for path in first.iterdir()) == ["file.npz", "images"]
    assert (first / "images/a.txt").read_text() == "a"
    assert capsys.readouterr().err.count("copied") == 2
    assert staged(data, names, tmp_path / "disk") == first
    assert capsys.readouterr().err == ""
    (data / "file.npz").write_text("2")
    os.utime(data / "file.npz", (0, 0))
    second = staged(data, names, tmp_path / "disk")
    assert capsys.readouterr().err.count("copied") == 1, "only what has changed"
    assert ((first / "file.npz").read_text(), (second / "file.npz").read_text()) == ("1", "2"), "a job may read the old"


def test_jobs_of_a_node_make_one_copy_together(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "images/large").write_bytes(b"x" * 2**22)
    rename = Path.rename

    def late(path: Path, target: Path) -> Path:
        time.sleep(0.05)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    with ThreadPoolExecutor(4) as pool:  # each locks a file that it opened itself, as processes do
        folders = list(pool.map(lambda _: staged(data, ["images"], tmp_path / "disk"), range(4)))
    assert len({*folders}) == 1
    assert len(list((tmp_path / "disk").glob("*/images-*"))) == 1
    assert (folders[0] / "images/large").stat().st_size == 2**22


def test_an_interrupted_copy_is_never_read(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(source: Path, target: Path) -> None:
        target.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copytree", half)
    with pytest.raises(KeyboardInterrupt):
        staged(data, ["images"], tmp_path / "disk")
    monkeypatch.undo()
    assert (staged(data, ["images"], tmp_path / "disk") / "images/a.txt").read_text() == "a"


def test_without_space_the_data_are_read_where_they_are(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", full)
    assert staged(data, ["file.npz"], tmp_path / "disk") == data
    assert "No space left on device); they are read from" in capsys.readouterr().err
    assert staged(data, ["absent"], tmp_path / "disk") == data


def test_only_the_files_of_the_runs_are_copied(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files_read([SPEC], data) == {"cifar-10-batches-py", "cifar-10-python.tar.gz"}
    weights = msgspec.structs.replace(SPEC, dataset="digits", init="pretrained states/my.pt")
    assert files_read([weights], data) == {"states"}
    undeclared = dataclasses.replace(datasets()["digits"], files=None)
    monkeypatch.setattr("pbt_bench.running.slurm.staging.datasets", lambda: {"cifar10": undeclared})
    assert files_read([SPEC], data) == {"images", "file.npz", "other"}, "any of them may be read"


def test_every_shipped_dataset_declares_its_files() -> None:
    assert [name for name, source in datasets().items() if source.files is None] == []
