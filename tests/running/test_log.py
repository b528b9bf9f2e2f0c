"""Tests of the log of a run: its events and printed text, and no failure if the log cannot be written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pbt_bench.running.log import log_path, logged, position, tail
from pbt_bench.spec import RunSpec

SPEC = RunSpec(dataset="digits", model="vgg8", method="snip", sparsity=0.9, seed=0)


def test_what_is_said_and_printed_is_kept_and_still_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with logged(tmp_path, SPEC, "cuda:1") as log:
        log.say("epoch 1/15 train loss 2.0")
        print("a print")
        print("a warning", file=sys.stderr)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a print\n", "a warning\n")
    print("after")
    first, *rest = tail(log_path(tmp_path, SPEC.run_id), 10)
    assert first.endswith("job 17")
    assert f"start {SPEC.label} on " in first
    assert " cuda:1 pid " in first
    assert [line.split(" ", 2)[-1] for line in rest] == ["epoch 1/15 train loss 2.0", "print", "warning"]


def test_a_stopped_run_says_so_and_the_next_session_is_appended(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), logged(tmp_path, SPEC, "cpu"):
        sys.exit(143)
    with logged(tmp_path, SPEC, "cpu") as log:
        log.say("done")
    lines = tail(log_path(tmp_path, SPEC.run_id), 10)
    assert [line.split()[2] for line in lines] == ["start", "stopped;", "start", "done"]


def test_a_log_that_cannot_be_written_fails_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").write_text("in the way")
    with logged(tmp_path, SPEC, "cpu") as log:
        log.say("lost")
        print("still printed")
    assert capsys.readouterr().out == "still printed\n"


def test_the_position_is_that_of_the_last_session(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert position(path) is None
    path.write_text("2026-01-01 10:00:00 start x\n2026-01-01 10:00:10 epoch 4/10 train loss 1\n")
    assert position(path) == (4, 10, None)
    with path.open("a") as file:
        file.write("2026-01-01 12:00:00 start x\n2026-01-01 12:00:10 epoch 5/10 train loss 1\n")
        file.write("2026-01-01 12:00:30 epoch 7/10 train loss 1\n")
    assert position(path) == (7, 10, 30.0)
