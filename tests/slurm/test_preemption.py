"""Tests of jobs that are preempted, or cancelled and submitted again: runs continue from their saved states."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from slurm_study import Study

pytestmark = pytest.mark.long


def test_a_job_of_high_priority_takes_both_nodes(study: Study, slurm: Callable[..., str]) -> None:
    study.submit(long=1.0)
    study.wait(lambda state: study.long_run(state)["epoch"] == 1)
    slurm("sbatch", "-p", "high", "-N", "2", "--exclusive", "--job-name=urgent", "-o", "/dev/null", "--wrap", "sleep 4")
    study.wait(lambda _: slurm("squeue", "-h", "-n", "urgent", "-t", "RUNNING"))
    state = study.status()
    assert state["running"] == 0
    assert state["pending"] == 24 - state["done"] > 0
    assert study.sessions(study.complete()) >= 2, "the long run went on from its saved state"


def test_cancelled_elements_are_lost_until_they_are_submitted_again(study: Study, slurm: Callable[..., str]) -> None:
    study.submit(long=1.0, array_parallelism=1, runs_per_job=12)
    state = study.wait(lambda state: study.long_run(state)["epoch"] == 1)
    running = study.long_run(state)["job"]
    pending = f"{running.split('_')[0]}_1"
    assert slurm("squeue", "-h", "-r", "-j", pending, "-o", "%T").strip() == "PENDING"
    slurm("scancel", running, pending)
    state = study.wait(lambda state: state["lost"] == 24 - state["done"], never="failed missing")
    assert {run["job"] for run in state["runs"]} == {running, pending}
    assert all("cancelled" in run["why"] for run in state["runs"])
    assert f"{state['lost']} to submit" in study.submit(long=1.0)
    assert study.sessions(study.complete()) >= 2
