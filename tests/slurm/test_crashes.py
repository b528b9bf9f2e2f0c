"""Tests in which nodes and daemons of the cluster fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from slurm_study import Study

pytestmark = pytest.mark.long


def test_a_node_loses_power(study: Study, cluster: Any, slurm: Callable[..., str]) -> None:
    study.submit(long=1.0, checkpoint_minutes=0.02)
    state = study.wait(lambda state: study.long_run(state)["epoch"] == 1)
    node = study.node(study.long_run(state)["job"])
    dead = set(slurm("squeue", "-h", "-r", "-w", node, "-o", "%i").split())
    cluster.crash(node)
    study.wait(lambda state: not dead & {run["job"] for run in state["runs"] if run["state"] == "running"})
    cluster.up()
    assert study.sessions(study.complete()) >= 2, "the long run went on from its last checkpoint"


def test_slurmd_dies_alone_and_two_copies_of_a_job_are_at_work(
    study: Study, cluster: Any, slurm: Callable[..., str]
) -> None:
    study.submit(long=2.5)
    state = study.wait(lambda state: study.long_run(state)["state"] == "running")
    job = study.long_run(state)["job"]
    cluster.kill(f"slurmd-{study.node(job)}")
    study.wait(lambda _: slurm("squeue", "-h", "-j", job, "-O", "RestartCnt,StateCompact").split() == ["1", "R"])
    state = study.wait(lambda _: study.said(job).count("runs to do,") == 2)
    assert study.long_run(state)["state"] == "running"
    assert study.sessions(study.complete()) == 1, "the second copy waited for the first"


def test_the_controller_dies_and_comes_back(study: Study, cluster: Any) -> None:
    study.submit(long=0.7)
    study.wait(lambda state: study.long_run(state)["epoch"] == 1)
    cluster.kill("slurmctld")
    state = study.status()
    assert "Unable to contact slurm controller" in state["warning"]
    assert study.long_run(state)["state"] == "running"
    assert state["running"] + state["pending"] == 24 - state["done"]
    refused = study.verb("submit", "--cluster", "here.toml")
    assert refused.returncode == 2
    assert "Unable to contact slurm controller" in refused.stderr
    assert refused.stderr.count("\n") == 1
    cluster.up()
    assert study.status()["warning"] is None
    study.complete()
