"""Tests that one worker executes a run, also if workers are killed, suspended or resumed."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from pbt_bench.running import claims as claims_module
from pbt_bench.running.claims import ClaimLost, Claims, Owner, active, owner, slurm_job

RUN = "0123456789abcdef"


def age(study: Path, name: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(study / "claims" / name, (then, then))


def test_one_of_many_threads_gets_a_run(tmp_path: Path) -> None:
    taken: list[int] = []
    start = threading.Barrier(16)

    def worker() -> None:
        claims = Claims(tmp_path)
        start.wait()
        for run in range(50):
            if claims.take(f"{run:016x}"):
                taken.append(run)
        claims._held = None  # as if the owner had been killed with its claims

    threads = [threading.Thread(target=worker) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(50))


def test_a_claim_is_refused_until_it_is_released(tmp_path: Path) -> None:
    mine, other = Claims(tmp_path), Claims(tmp_path)
    assert mine.take(RUN)
    assert not other.take(RUN)
    assert other.busy(RUN)
    found = owner(tmp_path, RUN)
    assert found is not None
    assert found.pid == os.getpid()
    assert active(tmp_path) == {RUN: found}
    mine.check()
    mine.release()
    assert not other.busy(RUN)
    assert other.take(RUN)
    other.close()
    mine.close()
    assert os.listdir(tmp_path / "claims") == []


def test_one_of_many_takes_a_stale_claim_over(tmp_path: Path) -> None:
    dead = Claims(tmp_path)
    assert dead.take(RUN)
    age(tmp_path, f"{RUN}.1", 100)
    others = [Claims(tmp_path) for _ in range(8)]
    assert not others[0].busy(RUN)
    assert [claims.take(RUN) for claims in others].count(True) == 1
    with pytest.raises(ClaimLost):
        dead.check()
    dead.release()  # the suspended owner resumes: the claim of the new owner stays
    assert os.path.exists(tmp_path / "claims" / f"{RUN}.2")
    for claims in others:
        claims.close()
    assert [name for name in os.listdir(tmp_path / "claims") if name.startswith(RUN)] == []


def test_the_former_owner_learns_it_from_its_own_heartbeat(tmp_path: Path) -> None:
    mine = Claims(tmp_path, beat=0.02)
    assert mine.take(RUN)
    (tmp_path / "claims" / f"{RUN}.2").write_text("{}")
    deadline = time.monotonic() + 10
    while not mine.lost and time.monotonic() < deadline:
        time.sleep(0.01)
    assert mine.lost
    mine.close()


def _hold(study: Path, ready: object) -> None:
    Claims(study, beat=0.1).take(RUN)
    ready.set()  # type: ignore[attr-defined]
    time.sleep(600)


def test_the_claim_of_a_killed_process_goes_stale_and_that_of_a_living_one_does_not(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    mine = Claims(tmp_path, stale=1.5)
    for _ in range(20):
        assert not mine.take(RUN)
        time.sleep(0.1)
    process.kill()
    process.join()
    killed = time.monotonic()
    while not mine.take(RUN):
        assert time.monotonic() - killed < 10
        time.sleep(0.05)
    assert time.monotonic() - killed > 1
    mine.close()


def test_the_newest_claim_of_a_run_counts(tmp_path: Path) -> None:
    first, second = Claims(tmp_path), Claims(tmp_path)
    assert first.take(RUN)
    age(tmp_path, f"{RUN}.1", 100)
    assert second.take(RUN)
    (tmp_path / "claims" / f"{RUN}.2").write_text('{"host": "other", "pid": 7}')
    assert first.busy(RUN)
    assert active(tmp_path) == {RUN: Owner("other", 7)}
    second.check()
    second.forget(RUN)
    assert not first.busy(RUN)
    with pytest.raises(ClaimLost):
        second.check()
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7"}, "7"),
        ({"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}, "7_3"),
    ],
)
def test_a_slurm_job_is_named_as_squeue_does(
    variables: dict[str, str], job: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert slurm_job() == job


def test_a_clock_that_is_wrong_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = Claims(tmp_path), Claims(tmp_path)
    assert mine.take(RUN)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert not other.take(RUN)


def test_a_claim_from_the_future_is_nobodys(tmp_path: Path) -> None:
    """Take over the claim of a dead owner after the clock of the file system was set back."""
    dead, mine = Claims(tmp_path), Claims(tmp_path)
    assert dead.take(RUN)
    dead._held = None
    age(tmp_path, f"{RUN}.1", -86_400)
    assert not mine.busy(RUN)
    assert active(tmp_path) == {}
    assert mine.take(RUN)
    mine.close()
    dead.close()


def test_claims_are_released_oldest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker that looks at any moment sees the renewed claim, and never takes a stale one for the newest."""
    removed: list[str] = []
    for generation in (1, 2):
        dead = Claims(tmp_path)
        assert dead.take(RUN)
        dead._held = None
        age(tmp_path, f"{RUN}.{generation}", 100)
    mine = Claims(tmp_path)
    assert mine.take(RUN)
    monkeypatch.setattr(claims_module, "_unlink", lambda path: removed.append(path.name))
    mine.release()
    assert removed == [f"{RUN}.{generation}" for generation in (1, 2, 3)]
    mine.close()
