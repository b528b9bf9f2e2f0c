"""Where every run of a study without a record is, according to Slurm: one squeue and one sacct call for all."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from pbt_bench.running.slurm.command import SlurmError
from pbt_bench.running.slurm.queue import Entry, Past, history, left_behind, queue
from pbt_bench.running.slurm.submissions import Submission, submissions


@dataclass(frozen=True)
class Place:
    """The job that has a run to do, or that was the last to have it."""

    job: str
    state: str  # Slurm's
    live: bool  # it is in the queue: waiting, running, or ending
    why: str  # it waits, or how it ended
    node: str
    log: Path  # what the job said outside its runs
    attempts: int = 0  # jobs of this run that ended by themselves without leaving a record


@dataclass(frozen=True)
class View:
    """Slurm's side of a study."""

    places: dict[str, Place]  # by run id
    error: str | None = None  # Slurm did not answer: what is live is not known


def view(study: str, folder: Path, ids: Collection[str]) -> View:
    """Where the runs `ids` of the study in `folder` are. Asks Slurm only if anything was ever submitted."""
    wanted = set(ids)
    # with their jobs, before the queue is: one that is accepted meanwhile is not over
    known = [submission for submission in submissions(folder) if submission.readable()]
    if not known or not wanted:
        return View({})
    error = None
    try:
        entries = queue(study)
    except SlurmError as failure:
        entries, error = [], str(failure)
    elements = list(_elements(known, entries, wanted))
    gone = {job.split("_")[0] for job, _, entry, _ in elements if entry is None or entry.over}
    try:
        past = history(gone) if error is None else {}
    except SlurmError:  # a cluster without accounting
        past = {}
    places: dict[str, Place] = {}
    for job, submission, entry, runs in elements:
        place = _place(job, submission, entry, past.get(job))
        for run in runs:
            before = places.get(run)
            ended = not place.live and place.state not in ("", "CANCELLED")
            attempts = (before.attempts if before else 0) + ended
            newest = before if before and before.live and not place.live else place
            places[run] = Place(**{**vars(newest), "attempts": attempts})
    return View(places, error)


def _elements(
    known: list[Submission], entries: list[Entry], wanted: set[str]
) -> Iterator[tuple[str, Submission, Entry | None, list[str]]]:
    """(job, submission, its entry in the queue, runs) of every element with wanted runs, oldest first."""
    by_place = {(entry.submission, entry.array, entry.element): entry for entry in entries}
    by_array = {(e.submission, e.array): e.job.split("_")[0] for e in entries if not e.over}  # else it was refused
    for submission in known:
        for array, content in enumerate(submission.elements):
            job = submission.jobs.get(array) or by_array.get((submission.folder.name, array))
            if job is None:
                continue  # Slurm refused it
            for element, ids in enumerate(content):
                runs = [run for run in ids if run in wanted]
                if runs:
                    name = f"{job}_{element}" if len(content) > 1 else job
                    yield name, submission, by_place.get((submission.folder.name, array, element)), runs


def _place(job: str, submission: Submission, entry: Entry | None, past: Past | None) -> Place:
    log = submission.log(job)
    if entry is not None and not entry.over:
        return Place(job, entry.state, True, entry.reason, entry.node, log)
    if past is not None and past.over:
        return Place(job, past.state, False, past.why, "", log)
    if entry is not None:
        return Place(job, entry.state, False, Past(entry.state, "").why, entry.node, log)
    if (past := left_behind(log)) is not None:  # without accounting, Slurm forgets in minutes what is over
        return Place(job, past.state, False, past.why, "", log)
    return Place(job, "", False, "Slurm no longer has it, it never began (cancelled while pending?)", "", log)
