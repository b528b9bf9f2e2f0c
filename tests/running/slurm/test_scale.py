"""Tests that the time of submission and status grows linearly with the runs, and that of a claim not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from pbt_bench.running.claims import Claims
from pbt_bench.running.record import RunRecord
from pbt_bench.running.slurm.profile import Profile
from pbt_bench.running.slurm.request import request
from pbt_bench.running.slurm.submissions import submissions
from pbt_bench.running.status import summary
from pbt_bench.running.store import Store
from pbt_bench.spec import Axes, Grid

RUNS = 500


def grid(runs: int) -> Grid:
    axes = Axes(
        dataset=("digits",), model=("vgg8",), method=("snip", "fts", "synflow", "random"), sparsity=(0.9,),
        seed=tuple(range(runs // 4)),
    )  # fmt: skip
    return Grid(name="scale", grid=axes, dense=False)


def least(action: Callable[[], object]) -> float:
    """Return the CPU seconds of the fastest of three calls, to exclude other work on the machine."""
    times = []
    for _ in range(3):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def costs(fake: Callable[[str, str], Path], folder: Path, runs: int) -> list[float]:
    """Return the CPU seconds of plan, submission and status, with a tenth of the runs done and all others queued."""
    study, store = grid(runs), Store(folder / str(runs) / "scale")
    profile = Profile(runs_per_job=4)
    store.prepare()
    fake("squeue", "#!/bin/sh\n")
    for spec in study.runs()[::10]:
        store.write(RunRecord(run_id=spec.run_id, status="done", spec=spec))

    def ask() -> None:
        request(study, store, profile, folder, dry_run=False, retry_failed=False, say=lambda _: None)

    first = time.process_time()
    ask()
    first = time.process_time() - first
    (made,) = submissions(store.folder)
    queue = "".join(
        f"{made.jobs[array]}_{element}|{element}|PENDING||Priority|{made.job_name(array)}\n"
        for array, content in enumerate(made.elements)
        for element in range(len(content))
    )
    path = folder / f"queue-{runs}"
    path.write_text(queue)
    fake("squeue", f"#!/bin/sh\ncat {path}\n")
    assert summary(study, store).counts == {"done": runs // 10, "pending": runs - runs // 10, "missing": 0}
    return [first, least(ask), least(lambda: summary(study, store))]


def test_nothing_grows_faster_than_the_number_of_runs(fake: Callable[[str, str], Path], tmp_path: Path) -> None:
    costs(fake, tmp_path, 40)  # import all modules before the measurement
    small, large = costs(fake, tmp_path, RUNS), costs(fake, tmp_path, 4 * RUNS)
    ratios = [b / a for a, b in zip(small, large, strict=True)]
    assert max(ratios) < 8, f"submit, submit again, status: {ratios}; 4 is linear, 16 quadratic"


@pytest.mark.parametrize("others", [1, 2000])
def test_a_claim_takes_the_same_few_file_operations_among_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    (tmp_path / "claims").mkdir()
    for number in range(others):
        (tmp_path / "claims" / f"{number:016x}.1").write_bytes(msgspec.json.encode({"host": "h", "pid": 1}))
    calls: list[str] = []

    def counted(name: str) -> None:
        function = getattr(os, name)

        def call(*arguments: object, **options: object) -> object:
            calls.append(name)
            return function(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    claims = Claims(tmp_path, beat=100)
    for name in ("stat", "unlink", "listdir", "scandir", "mkdir", "utime", "replace"):
        counted(name)
    assert claims.take("f" * 16)
    claims.check()
    claims.release()
    assert calls == ["stat", "stat", "unlink"], "besides the creation of the claim itself"
    monkeypatch.undo()
    claims.close()
