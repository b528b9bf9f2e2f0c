"""Tests on a real cluster of two nodes: every run is executed exactly once, with the bits of a local run."""

from __future__ import annotations

from slurm_study import Study


def test_a_grid_runs_on_both_nodes(study: Study) -> None:
    assert "4 array elements for 24 runs" in study.submit(array_parallelism=4)
    assert "0 to submit, 0 with a record, 24 on their way in 4 jobs" in study.submit()
    study.wait(lambda state: state["running"])
    assert all(record.environment["sessions"] == 1 for record in study.complete())
    assert set(study.nodes()) == {"n1", "n2"}
