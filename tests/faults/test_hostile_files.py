"""Tests that pipes, folders, devices and huge files in a results folder hang nothing and end nothing."""

from __future__ import annotations

import os
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pbt_bench.running.audit import audit
from pbt_bench.running.checkpoint import Checkpoint
from pbt_bench.running.claims import Claims, active, owner
from pbt_bench.running.display import plain
from pbt_bench.running.execute import Executed, Executor
from pbt_bench.running.log import last_job, log_path, logged, position, tail
from pbt_bench.running.record import Layer
from pbt_bench.running.signals import StopSignal
from pbt_bench.running.slurm.view import view
from pbt_bench.running.status import summary
from pbt_bench.running.store import MACHINE, Store
from pbt_bench.spec import Axes, Grid, Recipe

AXES = Axes(dataset=("digits",), model=("vgg8",), method=("magnitude",), sparsity=(0.9,), seed=(0,))
GRID = Grid(name="study", grid=AXES, recipe=Recipe(epochs=1, batch_size=256), dense=False)
(SPEC,) = GRID.runs()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()
    (path / "file").write_text("kept")


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)  # without any block on the disk


KINDS = (pipe, folder, endless, huge)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "study")
    found.prepare()
    for name in ("masks", "checkpoints", "claims", "logs", "slurm/1-1-1"):
        (found.folder / name).mkdir(parents=True)
    return found


@pytest.fixture(scope="module")
def executed() -> Executed:
    return Executor(Path("nowhere"), torch.device("cpu")).execute(SPEC)


@pytest.mark.parametrize("make", KINDS)
def test_an_odd_file_in_place_of_any_file_hangs_and_ends_nothing(
    store: Store, executed: Executed, make: Callable[[Path], None]
) -> None:
    run_id, tmp = SPEC.run_id, f"{MACHINE}.{os.getpid()}.tmp"
    places = [
        store.path(run_id), store.masks / f"{run_id}.bits", store.checkpoint(run_id), log_path(store.folder, run_id),
        store.folder / "claims" / f"{run_id}.1", store.folder / "audits.json", store.runs / f".{run_id}.{tmp}",
        store.masks / f".{run_id}.{tmp}", *(store.folder / "slurm/1-1-1" / name for name in ("elements.json", "jobs")),
    ]  # fmt: skip
    for place in places:
        make(place)
    start = time.monotonic()
    assert "magnitude" in plain(summary(GRID, store, ask_slurm=False))
    assert view(store.folder, [run_id]).jobs == {}
    assert owner(store.folder, run_id) is None
    assert set(active(store.folder)) <= {run_id}
    assert (tail(places[3], 5), last_job(places[3]), position(places[3])) == ([], None, None) or make is huge
    claims = Claims(store.folder, stale=1e-9)
    assert claims.take(run_id)
    assert Checkpoint(store, run_id, 0.0, StopSignal(), claims).load() is None
    with logged(store.folder, SPEC, "cpu"):
        store.write(executed.record, executed.masks)
    claims.close()
    store.sweep()
    assert store.finished(run_id)
    assert not audit("study", [SPEC], store, store.folder, "cpu", 0, False).faults
    assert time.monotonic() - start < 30
    if make is folder:
        assert len(list(store.folder.rglob("kept*"))) + len(list(store.folder.rglob("file"))) >= 6


def test_a_small_mask_file_of_many_weights_is_refused_before_it_is_unpacked(store: Store) -> None:
    weights = 4 * 10**9
    packed = zlib.compressobj(9)
    content = b"".join(packed.compress(bytes(10**6)) for _ in range(weights // 8 // 10**6)) + packed.flush()
    assert len(content) < 600_000
    (store.masks / f"{SPEC.run_id}.bits").write_bytes(content)
    layer = Layer(name="a", shape=(weights,), prunable=weights, kept=0, zero_scores=0)
    tracemalloc.start()
    assert store.masks_of(SPEC.run_id, [layer], "0" * 64) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


def test_the_names_of_files_reach_a_terminal_without_control_characters(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    (store.runs / "\x1b[2J\u202e.json").write_text("{")
    (store.runs / "\x1b[3J").mkdir()
    assert store.records() == []
    assert len(find_warnings(capsys)) == 1
    text = audit("study", [SPEC], store, store.folder, "cpu", 0, False).text()
    assert "1 file in" in text
    assert all(line.isprintable() for line in text.splitlines())
    assert find_warnings(capsys)


def find_warnings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().err.splitlines()
    assert all(line.isprintable() for line in lines), lines
    return lines
