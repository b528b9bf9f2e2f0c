"""A job has to go and comes back: preempted, at its time limit, cancelled. Runs go on from their saved states."""

from __future__ import annotations

import pytest


def test_a_job_of_high_priority_takes_both_nodes(study, slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROUBLE_LONG", "0.7")
    study.submit()
    study.wait(lambda state: study.long_run(state)["epoch"] == 1)
    slurm("sbatch", "-p", "high", "-N", "2", "--exclusive", "--job-name=urgent", "-o", "/dev/null", "--wrap", "sleep 4")
    study.wait(lambda _: slurm("squeue", "-h", "-n", "urgent", "-t", "RUNNING"))
    state = study.status()
    assert state["running"] == 0
    assert state["pending"] == 24 - state["done"] > 0
    assert study.sessions(study.complete()) >= 2, "the long run went on from its saved state"


def test_cancelled_elements_are_lost_until_they_are_submitted_again(
    study, slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE_LONG", "0.7")
    study.submit(array_parallelism=2)
    state = study.wait(lambda state: study.long_run(state)["epoch"] == 1)
    running = study.long_run(state)["job"]
    pending = f"{running.split('_')[0]}_3"
    assert slurm("squeue", "-h", "-r", "-j", pending, "-o", "%T").strip() == "PENDING"
    slurm("scancel", running, pending)
    state = study.wait(lambda state: state["lost"] > 6, never="failed missing")
    lost = [run for run in state["runs"] if run["state"] == "lost"]
    assert {run["job"] for run in lost} == {running, pending}
    assert all("cancelled" in run["why"] for run in lost)
    assert f"{len(lost)} to submit" in study.submit()
    assert study.sessions(study.complete()) >= 2
