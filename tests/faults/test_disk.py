"""Tests of a full disk, a read-only disk and a lost folder: a one-line error, exit code 1, finished runs are kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from records import result

from pbt_bench.running.claims import Claims
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec

pytestmark = pytest.mark.long


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a separate file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def finished(study: Path) -> dict[str, dict[str, Any]]:
    return {record.run_id: result(record) for record in Store(study).records()}


def one_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("pbt-bench: error:")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def test_a_full_disk(disk: Path, start: Any, uninterrupted: dict[str, Any]) -> None:
    filler = disk / "filler"
    call = start("run", "study.toml", "--workers", "2", "--results", str(disk))
    while not list(disk.glob("study/runs/*.json")) and call.poll() is None:
        time.sleep(0.05)
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"0" * 4096)
        except OSError:
            pass
    _, err = call.communicate(timeout=120)
    assert call.returncode == 1, err
    assert "No space left on device" in one_line(err)
    kept = finished(disk / "study")
    assert kept
    assert all(uninterrupted[run_id] == content for run_id, content in kept.items())
    assert list(disk.glob("study/*/.*.tmp")) == []
    again = start("run", "study.toml", "--workers", "1", "--results", str(disk))
    _, err = again.communicate(timeout=120)
    assert again.returncode in (1, 2), err
    assert "No space left" in one_line(err)
    filler.unlink()
    last = start("run", "study.toml", "--workers", "2", "--results", str(disk))
    _, err = last.communicate(timeout=240)
    assert last.returncode == 0, err
    assert finished(disk / "study") == uninterrupted


def test_a_disk_that_becomes_read_only(disk: Path, start: Any, uninterrupted: dict[str, Any]) -> None:
    call = start("run", "study.toml", "--workers", "2", "--results", str(disk))
    while not list(disk.glob("study/runs/*.json")) and call.poll() is None:
        time.sleep(0.05)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    _, err = call.communicate(timeout=120)
    assert call.returncode == 1, err
    assert "Read-only file system" in one_line(err)
    assert finished(disk / "study")
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    last = start("run", "study.toml", "--workers", "2", "--results", str(disk))
    _, err = last.communicate(timeout=240)
    assert last.returncode == 0, err
    assert finished(disk / "study") == uninterrupted


def test_a_results_folder_that_disappears(folder: Path, start: Any, uninterrupted: dict[str, Any]) -> None:
    call = start("run", "study.toml", "--workers", "2")
    study = folder / "results/study"
    while not list(study.glob("runs/*.json")) and call.poll() is None:
        time.sleep(0.05)
    moved = folder / "elsewhere"
    os.rename(folder / "results", moved)
    _, err = call.communicate(timeout=120)
    assert call.returncode == 1, err
    assert "results cannot be written: No such file or directory" in one_line(err)
    assert not study.exists(), "it was made again, without what was finished"
    shutil.move(moved, folder / "results")
    last = start("run", "study.toml", "--workers", "2")
    _, err = last.communicate(timeout=240)
    assert last.returncode == 0, err
    assert finished(study) == uninterrupted


def test_a_results_folder_that_disappears_while_a_run_of_another_is_awaited(
    folder: Path, start: Any, specs: list[RunSpec]
) -> None:
    study = folder / "results/study"
    Store(study).prepare()
    claims = Claims(study)
    assert claims.take(next(spec for spec in specs if spec.method == "dense" and spec.seed == 0).run_id)
    small = ("grid.seed=[0]", "grid.method=['snip']", "grid.sparsity=[0.9]", "grid.warmup=['none']")
    call = start("run", "study.toml", "--workers", "1", *(word for value in small for word in ("--set", value)))
    while not list(study.glob("runs/*.json")) and call.poll() is None:
        time.sleep(0.05)
    os.rename(folder / "results", folder / "elsewhere")
    _, err = call.communicate(timeout=120)
    claims.close()
    assert call.returncode == 1, err
    assert "results cannot be written: No such file or directory" in one_line(err)
