"""Find the last Slurm job of every run without a record, with one call of squeue and one of sacct per cluster."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pbt_bench.running.slurm.command import SlurmError
from pbt_bench.running.slurm.queue import Entry, Past, history, left_behind, queue
from pbt_bench.running.slurm.submissions import Submission, submissions


@dataclass(frozen=True)
class LastJob:
    """The live job of a run, or the last job that ended."""

    job: str
    state: str  # Slurm's
    live: bool  # it is in the queue: pending, running or completing
    why: str  # reason why it is pending, or how it ended
    node: str
    log: Path  # its output outside its runs
    attempts: int = 0  # jobs of this run that ended without a record and were not cancelled


@dataclass(frozen=True)
class View:
    """Slurm's side of a study."""

    jobs: dict[str, LastJob]  # by run id
    error: str | None = None  # Slurm did not answer: live jobs are not known


def view(folder: Path, ids: Collection[str]) -> View:
    """Find the last jobs of the runs `ids` of the study in `folder`. Calls Slurm only if there is a submission."""
    wanted = set(ids)
    # Read job ids before the queue: a job accepted in the meantime would seem to have ended.
    known = [submission for submission in submissions(folder) if submission.readable()]
    if not known or not wanted:
        return View({})
    error = None
    try:
        entries = queue(known)
    except SlurmError as failure:
        entries, error = [], str(failure)
    elements = list(_elements(known, entries, wanted))
    ended_jobs: dict[str | None, set[str]] = {}
    for name, submission, entry, _ in elements:
        if entry is None or entry.over:
            ended_jobs.setdefault(submission.settings.clusters, set()).add(name.split("_")[0])
    past: dict[tuple[str | None, str], Past] = {}
    for clusters, ids_of_jobs in ended_jobs.items() if error is None else ():
        with suppress(SlurmError):  # a cluster without accounting
            past |= {(clusters, name): end for name, end in history(ids_of_jobs, clusters).items()}
    jobs: dict[str, LastJob] = {}
    for name, submission, entry, runs in elements:
        job = _last_job(name, submission, entry, past.get((submission.settings.clusters, name)))
        for run in runs:
            before = jobs.get(run)
            ended = not job.live and job.state not in ("", "CANCELLED")
            attempts = (before.attempts if before else 0) + ended
            newest = before if before and before.live and not job.live else job
            jobs[run] = LastJob(**{**vars(newest), "attempts": attempts})
    return View(jobs, error)


def _elements(
    known: list[Submission], entries: list[Entry], wanted: set[str]
) -> Iterator[tuple[str, Submission, Entry | None, list[str]]]:
    """Yield (job, submission, entry in the queue, runs) of every element with wanted runs, oldest first."""
    by_element = {(entry.submission, entry.array, entry.element): entry for entry in entries}
    by_array = {(entry.submission, entry.array): entry.job.split("_")[0] for entry in entries if not entry.over}
    for submission in known:
        for array, content in enumerate(submission.elements):
            job = submission.jobs.get(array) or by_array.get((submission.folder.name, array))
            if job is None:
                continue  # Slurm refused it
            for element, ids in enumerate(content):
                runs = [run for run in ids if run in wanted]
                if runs:
                    name = f"{job}_{element}" if len(content) > 1 else job
                    yield name, submission, by_element.get((submission.folder.name, array, element)), runs


def _last_job(job: str, submission: Submission, entry: Entry | None, past: Past | None) -> LastJob:
    log = submission.log(job)
    if entry is not None and not entry.over:
        return LastJob(job, entry.state, True, entry.reason, entry.node, log)
    if past is not None and past.over:
        return LastJob(job, past.state, False, past.why, "", log)
    if entry is not None:
        return LastJob(job, entry.state, False, Past(entry.state, "").why, entry.node, log)
    if (past := left_behind(log)) is not None:  # without accounting, Slurm forgets ended jobs in minutes
        return LastJob(job, past.state, False, past.why, "", log)
    return LastJob(job, "", False, "Slurm no longer has it, and it never started (cancelled while pending?)", "", log)
