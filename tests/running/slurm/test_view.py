"""Tests of `status` and `cancel` for jobs that are pending, running, requeued, ended or forgotten, or unknown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from pbt_bench.running.claims import Claims
from pbt_bench.running.display import plain, table, watch
from pbt_bench.running.log import log_path
from pbt_bench.running.record import RunRecord
from pbt_bench.running.slurm.cancel import cancel
from pbt_bench.running.slurm.command import SlurmError
from pbt_bench.running.slurm.queue import Past, history, queue
from pbt_bench.running.slurm.submissions import Settings, Submission, submissions
from pbt_bench.running.slurm.view import view
from pbt_bench.running.status import Summary, summary
from pbt_bench.running.store import Store
from pbt_bench.spec import Axes, Grid

GRID = Grid(
    name="tiny",
    grid=Axes(dataset=("digits",), model=("vgg8",), method=("snip", "fts"), sparsity=(0.9, 0.98), seed=(0, 1)),
)
SPECS = GRID.runs()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "results" / "tiny")
    found.prepare()
    return found


@pytest.fixture
def submission(store: Store) -> Submission:
    """Return ten runs, one per element of the array with id 500."""
    settings = Settings(study=str(store.folder), data="data", device="cpu", workers=1)
    made = Submission.create(settings, [[[spec] for spec in SPECS]])
    made.accepted(0, "500")
    return made


def squeue(fake: Callable[[str, str], Path], submission: Submission, *lines: str) -> None:
    text = "".join(f"500_{line.split('|')[0]}|{line}|{submission.job_name(0)}\n" for line in lines)
    fake("squeue", f"#!/bin/sh\ncat <<'END'\n{text}END\n")


def sacct(fake: Callable[[str, str], Path], *lines: str) -> None:
    fake("sacct", "#!/bin/sh\ncat <<'END'\n" + "".join(f"500_{line}\n" for line in lines) + "END\n")


def done(store: Store, index: int, seconds: float = 100.0) -> None:
    spec = SPECS[index]
    store.write(RunRecord(run_id=spec.run_id, status="done", spec=spec, environment={"seconds": seconds}))


def counts(state: Summary) -> dict[str, int]:
    return {name: count for name, count in state.counts.items() if count}


def test_every_run_is_where_slurm_has_it_and_the_counts_add_up(
    fake: Callable[[str, str], Path], store: Store, submission: Submission
) -> None:
    squeue(
        fake, submission,
        "1|RUNNING|n1|None", "2|PENDING||JobArrayTaskLimit", "3|PENDING||BeginTime", "4|COMPLETING|n2|None",
        "5|PENDING||None",
    )  # fmt: skip
    sacct(fake, "6|OUT_OF_MEMORY|0:125", "7|CANCELLED by 0|0:0", "8|FAILED|2:0", "1|NODE_FAIL|0:0")
    done(store, 0)
    (submission.folder / "500_8_0_log.err").write_text("pbt-bench: one\ntwo\n\nthree: no such device\nfour\n")
    state = summary(GRID, store)
    assert counts(state) == {"done": 1, "pending": 5, "lost": 4}
    assert state.counts.total() == state.total == 10
    assert state.seconds_left == 900.0
    assert sorted(run.why or "" for run in state.of("pending")) == [
        "BeginTime", "JobArrayTaskLimit", "its job is completing on n2", "its job is running on n1",
        "not yet considered by the scheduler",
    ]  # fmt: skip
    lost = {run.job: run for run in state.of("lost")}
    assert {job: run.why for job, run in lost.items()} == {
        "500_6": "out of memory, signal 125",
        "500_7": "cancelled",
        "500_8": "failed, exit code 2",
        "500_9": "Slurm no longer has it, and it never started (cancelled while pending?)",
    }
    assert lost["500_8"].log == ("two", "three: no such device", "four")
    text = plain(state)
    assert text.startswith("tiny: 10 runs: 1 done, 5 pending, 4 lost (about 15 min 00 s with one worker)\n")
    assert "lost: 1 run: job 500_8: failed, exit code 2\n" in text
    assert "    | three: no such device\n" in text
    parsed = json.loads(state.to_json())
    assert sum(parsed[name] for name in ("done", "collapsed", "diverged", "failed", "running", "pending", "lost")) == 10
    assert {run["run_id"] for run in parsed["runs"]} == {spec.run_id for spec in SPECS[1:]}


def test_a_run_that_a_worker_has_is_running_wherever_slurm_thinks_it_is(
    fake: Callable[[str, str], Path], store: Store, submission: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue(fake, submission, *(f"{index}|PENDING||BeginTime" for index in range(10)))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "500")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    spec = SPECS[3]
    log_path(store.folder, spec.run_id).parent.mkdir()
    log_path(store.folder, spec.run_id).write_text(
        "2026-11-23 08:00:00 start digits vgg8 on n1\n2026-11-23 08:00:10 epoch 1/15 train loss 2\n"
        "2026-11-23 08:00:11 stopped\n2026-11-23 09:00:00 start digits vgg8 on n2\nwarning: epoch 9/15\n"
        "2026-11-23 09:00:10 epoch 2/15 train loss 1\n2026-11-23 09:00:18 epoch 6/15 train loss 1\n"
    )
    claims = Claims(store.folder)
    claims.take(spec.run_id)
    try:
        state = summary(GRID, store)
    finally:
        claims.close()
    assert counts(state) == {"running": 1, "pending": 9}
    (run,) = state.of("running")
    assert (run.run_id, run.job, run.epoch, run.epochs, run.seconds_left) == (spec.run_id, "500_3", 6, 15, 18.0)
    assert "epoch 6/15, ETA 18 s, on " in plain(state)
    assert counts(summary(GRID, store)) == {"pending": 10}


def test_a_stale_claim_is_nobodys(fake: Callable[[str, str], Path], store: Store) -> None:
    claims = Claims(store.folder, beat=100, stale=0.05)
    claims.take(SPECS[0].run_id)
    path = next(path for path in (store.folder / "claims").iterdir() if not path.name.startswith("."))
    os.utime(path, (0, 0))
    assert counts(summary(GRID, store)) == {"missing": 10}
    claims.close()


def test_a_study_that_was_never_submitted_asks_slurm_nothing(fake: Callable[[str, str], Path], store: Store) -> None:
    fake("squeue", "#!/bin/sh\nexit 1\n")
    done(store, 0)
    state = summary(GRID, store)
    assert state.warning is None
    assert counts(state) == {"done": 1, "missing": 9}
    assert cancel(store) == 0


def test_slurm_that_does_not_answer_is_said_and_its_runs_are_not_called_lost(
    fake: Callable[[str, str], Path], store: Store, submission: Submission
) -> None:
    fake("squeue", "#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n")
    done(store, 0)
    state = summary(GRID, store)
    assert counts(state) == {"done": 1, "pending": 9}
    assert "Unable to contact slurm controller" in str(state.warning)
    assert "warning: squeue: slurm_load_jobs error: Unable" in plain(state)
    with pytest.raises(SlurmError, match="Unable to contact"):
        cancel(store)


def test_without_accounting_the_queue_still_explains(
    fake: Callable[[str, str], Path], store: Store, submission: Submission
) -> None:
    fake("sacct", "#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
    squeue(fake, submission, *(f"{index}|TIMEOUT|n1|TimeLimit" for index in range(10)))
    state = summary(GRID, store)
    assert counts(state) == {"lost": 10}
    assert {run.why for run in state.runs} == {"timeout"}


def test_what_slurm_forgot_is_told_from_the_jobs_log_and_counts_as_attempts(
    fake: Callable[[str, str], Path], store: Store, submission: Submission
) -> None:
    fake("sacct", "#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
    ends = {
        "0": "",
        "1": "slurmstepd-n1: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-11-24T11:54:25 ***\nsrun: error: Killed\n",
        "2": "slurmstepd: error: *** JOB 8 ON n1 CANCELLED AT 2026-11-24T11:54:25 DUE TO TIME LIMIT ***\n",
        "3": "error: *** JOB 8 ON n1 CANCELLED AT 2026-11-24T11:54:25 DUE TO NODE FAILURE, SEE SLURMCTLD LOG ***\n",
    }
    requeued = "error: *** JOB 8 ON n1 CANCELLED AT 2026-11-24T11:54:25 DUE TO JOB REQUEUE ***\n"
    ends["4"] = requeued
    ends["5"] = ends["1"] + requeued + "start 2 of this job: 4 of its 4 runs to do\n"
    for element, text in ends.items():
        submission.log(f"500_{element}").write_text(text)
    state = summary(GRID, store)
    assert counts(state) == {"lost": 10}
    why = {run.job: run.why for run in state.runs}
    assert [why[f"500_{element}"] for element in range(7)] == [
        "ended, reason unknown", "cancelled", "time limit", "node failure",
        "ended, reason unknown", "ended, reason unknown",
        "Slurm no longer has it, and it never started (cancelled while pending?)",
    ]  # fmt: skip
    jobs = view(store.folder, [spec.run_id for spec in SPECS]).jobs
    assert [jobs[spec.run_id].attempts for spec in SPECS[:7]] == [1, 0, 1, 1, 1, 1, 0]


def test_the_log_of_a_lost_run_is_shown_if_the_lost_job_wrote_it(
    fake: Callable[[str, str], Path], store: Store, submission: Submission
) -> None:
    sacct(fake, *(f"{index}|FAILED|1:0" for index in range(10)))
    submission.log("500_0").write_text("no such module\n")
    log_path(store.folder, SPECS[0].run_id).parent.mkdir()
    old = "2026-11-23 08:00:00 start digits vgg8 on n1 cpu pid 7 job 400_0\nstopped\n"
    log_path(store.folder, SPECS[0].run_id).write_text(old)
    log_path(store.folder, SPECS[1].run_id).write_text(old + old.replace("400_0", "500_1").replace("stopped", "odd"))
    logs = {run.job: run.log[-1:] for run in summary(GRID, store).runs}
    assert logs["500_0"] == ("no such module",)
    assert logs["500_1"] == ("odd",)


def test_a_run_that_ends_while_slurm_is_asked_is_done(
    fake: Callable[[str, str], Path], store: Store, submission: Submission
) -> None:
    done(store, 0)
    record = store.path(SPECS[0].run_id)
    late = record.rename(record.with_suffix(".late"))
    fake("squeue", f"#!/bin/sh\n[ ! -e {late} ] || mv {late} {record}\n")
    sacct(fake, *(f"{index}|COMPLETED|0:0" for index in range(10)))
    assert counts(summary(GRID, store)) == {"done": 1, "lost": 9}


def test_a_job_that_is_accepted_while_slurm_is_asked_is_not_lost(
    fake: Callable[[str, str], Path], store: Store, submission: Submission
) -> None:
    jobs = submission.folder / "jobs"
    late = jobs.rename(jobs.with_suffix(".late"))
    fake("squeue", f"#!/bin/sh\nmv {late} {jobs}\n")
    assert counts(summary(GRID, store)) == {"missing": 10}


def test_a_later_submission_decides_and_attempts_are_told(
    fake: Callable[[str, str], Path], store: Store, submission: Submission
) -> None:
    second = Submission.create(submission.settings, [[SPECS[:2]]])
    second.accepted(0, "600")
    fake(
        "sacct",
        "#!/bin/sh\nfor i in 0 1 2 3 4 5 6 7 8 9; do echo \"500_$i|FAILED|1:0\"; done\necho '600|TIMEOUT|0:0'\n",
    )
    state = summary(GRID, store)
    by_id = {run.run_id: run for run in state.of("lost")}
    assert by_id[SPECS[0].run_id].why == "timeout (2 times)"
    assert by_id[SPECS[0].run_id].job == "600"
    assert by_id[SPECS[5].run_id].why == "failed, exit code 1"


def test_other_peoples_jobs_and_odd_lines_are_no_concern(
    fake: Callable[[str, str], Path], submission: Submission
) -> None:
    name = submission.job_name(0)
    fake(
        "squeue",
        "#!/bin/sh\nprintf 'CLUSTER: big\\n7|N/A|RUNNING|n|r|\\n8_1|1|RUNNING|n|r|a|b\\n'\n"
        f"echo '9_4|4|RUNNING|n|r|{name}'\n",
    )
    (entry,) = queue([submission])
    assert (entry.job, entry.submission, entry.array, entry.element) == ("9_4", submission.folder.name, 0, 4)
    fake("sacct", "#!/bin/sh\nprintf 'x\\n5_[3-7]|PENDING|0:0\\n5_1|CANCELLED by 12|0:9\\n'")
    assert history(["5"])["5_1"] == Past("CANCELLED", "0:9")
    assert history([]) == {}


def test_cancel_takes_out_what_this_folder_submitted(
    fake: Callable[[str, str], Path], store: Store, submission: Submission
) -> None:
    folder = fake("scancel", '#!/bin/sh\necho "$@" >> {folder}/cancelled\n')
    squeue(fake, submission, "1|RUNNING|n1|None", "2|PENDING||Resources", "3|COMPLETED|n1|None")
    assert cancel(store) == 2
    assert (folder / "cancelled").read_text() == "500_1 500_2\n"


def test_every_command_asks_the_cluster_of_the_submission(fake: Callable[[str, str], Path], store: Store) -> None:
    for clusters, job in (("big", "7"), (None, "7")):  # job ids are unique only within a cluster
        settings = Settings(study=str(store.folder), data="data", device="cpu", workers=1, clusters=clusters)
        Submission.create(settings, [[SPECS[:1]]]).accepted(0, job)
    first, second = submissions(store.folder)
    folder = fake("squeue", '#!/bin/sh\necho "squeue $*" >> {folder}/calls\n')
    fake("sacct", '#!/bin/sh\necho "sacct $*" >> {folder}/calls\n[ "$1" = --clusters ] && echo "7|FAILED|1:0"\n')
    fake("scancel", '#!/bin/sh\necho "scancel $*" >> {folder}/calls\n')
    summary(GRID, store)
    calls = (folder / "calls").read_text().splitlines()
    assert [call.split(" -")[0] + call.partition("big")[1] for call in calls] == [
        "squeuebig", "squeue", "sacctbig", "sacct",
    ]  # fmt: skip
    assert [call.startswith(f"{call.split()[0]} --clusters big ") for call in calls] == [True, False, True, False]
    (folder / "calls").unlink()
    fake("squeue", '#!/bin/sh\n[ "$1" = --clusters ] && echo \'7|N/A|RUNNING|n|r|' + first.job_name(0) + "'; exit 0\n")
    assert cancel(store) == 1
    assert (folder / "calls").read_text() == "scancel --clusters big 7\n"
    assert view(store.folder, [SPECS[0].run_id]).jobs[SPECS[0].run_id].live
    assert second.settings.clusters is None


def test_failures_and_a_table_for_terminals(fake: Callable[[str, str], Path], store: Store) -> None:
    record = RunRecord(
        run_id=SPECS[0].run_id, status="failed", spec=SPECS[0],
        error='Traceback (most recent call last):\n  File "x.py", line 1, in f\n    x\nValueError: [red]boom[/red]\n',
    )  # fmt: skip
    store.write(record)
    state = summary(GRID, store)
    assert f"failed: {SPECS[0].label} ({SPECS[0].run_id}): ValueError: [red]boom[/red]" in plain(state)
    shown = StringIO()
    console = Console(file=shown, force_terminal=True, width=120, color_system=None)
    console.print(table(state))
    assert "ValueError: [red]boom[/red]" in shown.getvalue()
    assert json.loads(state.to_json())["failures"][0]["error"] == "ValueError: [red]boom[/red]"


def test_a_damaged_record_is_counted_apart(fake: Callable[[str, str], Path], store: Store) -> None:
    done(store, 0)
    done(store, 1)
    store.path(SPECS[0].run_id).write_text("{")
    store.path(SPECS[1].run_id).write_bytes(msgspec.json.encode({"run_id": SPECS[2].run_id, "status": "done"}))
    assert counts(summary(GRID, store)) == {"damaged": 2, "missing": 8}


def test_status_starts_without_torch(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_bytes(
        b'name="tiny"\n[grid]\ndataset=["digits"]\nmodel=["vgg8"]\nmethod=["snip"]\nsparsity=[0.9]\nseed=[0]\n'
    )
    code = (
        "import sys; from pbt_bench.cli import main; code = main(sys.argv[1:]);"
        "assert not any(name.split('.')[0] in ('torch', 'pandas') for name in sys.modules); sys.exit(code)"
    )
    for words in (["status", "tiny.toml", "--watch"], ["cancel", "tiny.toml"]):
        ended = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "tiny: " in ended.stdout


def test_watched_as_json_it_is_one_object_per_line(
    fake: Callable[[str, str], Path], store: Store, submission: Submission, capsys: pytest.CaptureFixture[str]
) -> None:
    squeue(fake, submission, "1|RUNNING|n1|None")
    states = iter([summary(GRID, store), summary(GRID, Store(store.folder / "empty"))])
    watch(lambda: next(states), 0.0, json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["pending"], line["missing"]) for line in lines] == [(1, 0), (0, 10)]
