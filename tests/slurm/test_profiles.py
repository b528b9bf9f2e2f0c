"""Tests of profiles with options that Slurm refuses, too little memory or too little time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from slurm_study import Results, Study

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def limited(cluster: object, known: Callable[[], Results], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """Submit a study whose first run takes 60 s, in jobs with a shorter limit. It runs during the other tests.

    Slurm checks limits every 30 s. It sends the signal if less than 30 s plus `signal_delay` remain: by 60 s.
    """
    made = Study(tmp_path_factory.mktemp("limited"), known, "limited")
    made.submit(long=60 / 18, time=2, signal_delay=60, array_parallelism=1, runs_per_job=24)
    yield made
    made.end()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"partition": "nope"}, "invalid partition specified: nope"),
    ({"partition": "main' --hold '; #"}, "invalid partition specified: main' --hold '; #"),
    ({"gpus": 9}, "Requested node configuration is not available"),
    ({"memory": "9T"}, "Requested node configuration is not available"),
]


def test_a_refused_profile_is_one_line_and_leaves_nothing(study: Study) -> None:
    for changes, message in REFUSED:
        refused = study.verb("submit", "--cluster", study.profile(**changes))
        assert refused.returncode == 2
        assert message in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert study.status()["missing"] == 24
    assert "24 to submit" in study.submit()
    study.complete()


def test_jobs_that_end_at_once_are_told_and_the_next_submission_does_their_runs(study: Study) -> None:
    study.submit(setup=["exit 3"])
    study.wait(lambda state: state["lost"] == 24, never="failed missing")
    why = {"failed, exit code 3"}  # once accounting has the exit code
    study.wait(lambda state: {run["why"] for run in state["runs"]} == why, never="failed missing")
    assert "24 to submit" in study.submit()
    study.complete()


def test_a_run_that_takes_too_much_memory_fails_alone_and_is_done_with_more(study: Study) -> None:
    study.submit(greedy=2000, memory="1500M")
    state = study.wait(lambda state: state["done"] + state["failed"] == 24, never="lost missing")
    assert state["failed"] == 1
    assert "(out of memory?)" in state["failures"][0]["error"]
    study.quiet()
    assert "0 to submit, 24 with a record, 1 failed (--retry-failed" in study.submit()
    assert "1 array element for 1 runs" in study.submit("--retry-failed", memory="4G")
    study.complete(never="lost missing")


def test_a_run_longer_than_the_time_limit_is_finished_over_several_jobs(limited: Study) -> None:
    assert limited.sessions(limited.complete(seconds=300)) >= 2
