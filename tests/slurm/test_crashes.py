"""Nodes and daemons die, and memory runs out."""

from __future__ import annotations

import pytest


def test_a_node_loses_power(study, cluster, slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROUBLE_LONG", "0.7")
    study.submit(checkpoint_minutes=0.02)
    state = study.wait(lambda state: study.long_run(state)["epoch"] == 1)
    node = study.node(study.long_run(state)["job"])
    dead = set(slurm("squeue", "-h", "-r", "-w", node, "-o", "%i").split())
    cluster.crash(node)
    study.wait(lambda state: not dead & {run["job"] for run in state["runs"] if run["state"] == "running"})
    cluster.up()
    assert study.sessions(study.complete()) >= 2, "the long run went on from its last checkpoint"


def test_slurmd_dies_alone_and_two_copies_of_a_job_are_at_work(
    study, cluster, slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE_LONG", "2.5")  # 18 steps: 45 s
    study.submit()
    state = study.wait(lambda state: study.long_run(state)["state"] == "running")
    job = study.long_run(state)["job"]
    cluster.kill(f"slurmd-{study.node(job)}")
    study.wait(lambda _: slurm("squeue", "-h", "-j", job, "-O", "RestartCnt,StateCompact").split() == ["1", "R"])
    study.wait(lambda _: study.said(job).count("runs to do,") == 2)
    state = study.status()
    assert study.long_run(state)["state"] == "running"
    assert study.sessions(study.complete()) == 1, "the second copy waited for the first"


def test_the_controller_dies_and_comes_back(study, cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROUBLE_LONG", "0.7")
    study.submit()
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


def test_a_run_that_takes_too_much_memory_fails_alone_and_is_done_with_more(
    study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE_GREEDY", "2000")
    study.submit(memory="1500M")
    state = study.wait(lambda state: state["done"] + state["failed"] == 24, never="lost missing")
    assert state["failed"] == 1
    assert "(out of memory?)" in state["failures"][0]["error"]
    study.quiet()
    assert "0 to submit, 24 with a record, 1 failed (--retry-failed" in study.submit()
    monkeypatch.setenv("TROUBLE_GREEDY", "0")
    assert "1 array element for 1 runs" in study.submit("--retry-failed", memory="4G")
    study.complete(never="lost missing")
