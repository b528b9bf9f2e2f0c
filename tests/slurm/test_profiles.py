"""A profile that the cluster does not take, and one whose jobs die before Python starts."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partition": "nope"}, "invalid partition specified: nope"),
        ({"gpus": 9}, "Requested node configuration is not available"),
        ({"memory": "9T"}, "Requested node configuration is not available"),
    ],
)
def test_a_refused_profile_is_one_line_and_leaves_nothing(study, changes: dict[str, object], message: str) -> None:
    refused = study.verb("submit", "--cluster", study.profile(**changes))
    print(refused.stderr)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert study.status()["missing"] == 24


def test_jobs_that_end_at_once_are_told_and_the_next_submission_does_their_runs(study) -> None:
    study.submit(setup=["exit 3"])
    study.wait(lambda state: state["lost"] == 24, never="failed missing")
    why = {"failed, exit code 3"}  # as soon as accounting has it
    study.wait(lambda state: {run["why"] for run in state["runs"]} == why, never="failed missing")
    assert "24 to submit" in study.submit()
    study.complete(never="failed missing lost")
