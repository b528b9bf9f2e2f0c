"""Read the state of a study's jobs from Slurm: squeue for jobs in the queue, sacct for jobs that ended.

Only the result store decides whether a run is finished. sacct lags, shows NODE_FAIL while a job is being requeued,
and omits array elements that were cancelled before they started.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from pbt_bench.running.log import tail
from pbt_bench.running.slurm.command import call
from pbt_bench.running.slurm.submissions import Submission

_OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
# the last message of slurmstepd in a job's log
_CANCELLED = re.compile(r"\*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT \S+ (?:DUE TO ([A-Z ]*[A-Z]))?")
_NAMES_PER_CALL = 1000  # the length of a command line is limited
_LAST_LINES = 100  # of a log that are searched for that message


@dataclass(frozen=True)
class Entry:
    """One array element in Slurm's queue."""

    job: str  # 123_4, or 123 where an array has one element
    state: str
    reason: str  # for pending jobs
    node: str
    submission: str  # the name of its folder
    array: int
    element: int
    clusters: str | None = None

    @property
    def over(self) -> bool:
        """True if the job ended."""
        return self.state in _OVER


def queue(known: Iterable[Submission]) -> list[Entry]:
    """Return the array elements of submissions in squeue, ended ones included. Raises SlurmError without an answer."""
    names: dict[str | None, list[str]] = {}
    for submission in known:
        arrays = range(len(submission.elements))
        names.setdefault(submission.settings.clusters, []).extend(map(submission.job_name, arrays))
    found = []
    for clusters, of_cluster in names.items():
        for start in range(0, len(of_cluster), _NAMES_PER_CALL):
            chosen = f"--name={','.join(of_cluster[start : start + _NAMES_PER_CALL])}"
            text = call("squeue", "-r", "-h", "-t", "all", chosen, "-o", "%i|%K|%T|%N|%r|%j", clusters=clusters)
            found += [entry for line in text.splitlines() if (entry := _entry(line, clusters)) is not None]
    return found


def _entry(line: str, clusters: str | None) -> Entry | None:
    job, index, state, node, reason, name = [*line.split("|", 5), *[""] * 5][:6]
    match = re.fullmatch(r"pbt-.+\.([\d-]+)\.(\d+)", name.strip())
    if match is None:  # a line that names a cluster
        return None
    element = int(index) if index.isdigit() else 0
    return Entry(job, state, reason, node, match[1], int(match[2]), element, clusters)


@dataclass(frozen=True)
class Past:
    """The end of a job, from accounting or its log."""

    state: str
    code: str  # exit code:signal

    @property
    def over(self) -> bool:
        """True if the job ended. Accounting lags and may show an earlier state."""
        return self.state in _OVER

    @property
    def why(self) -> str:
        """The state and exit code in words."""
        code, _, number = self.code.partition(":")
        said = self.state.lower().replace("_", " ")
        if code not in ("", "0"):
            return f"{said}, exit code {code}"
        return f"{said}, signal {number}" if number not in ("", "0") else said


def history(jobs: Collection[str], clusters: str | None = None) -> dict[str, Past]:
    """Return the last state of every element of `jobs`. Raises SlurmError if accounting does not answer."""
    if not jobs:
        return {}
    text = call(
        "sacct", "-n", "-P", "-X", "-o", "JobID,State,ExitCode", "-j", ",".join(sorted(jobs)), clusters=clusters
    )
    found = {}
    for line in text.splitlines():
        job, state, code = [*line.split("|"), "", ""][:3]
        found[job] = Past(state.split()[0] if state else "", code)  # "CANCELLED by 1000"
    return found


def left_behind(log: Path) -> Past | None:
    """Return the end of a job that Slurm no longer knows, read from its log; None without a log: it never started."""
    if not log.exists():
        return None
    state = "ENDED, REASON UNKNOWN"
    for line in tail(log, _LAST_LINES):
        match = _CANCELLED.search(line)
        if line.startswith("start ") or (match and match[1] == "JOB REQUEUE"):  # requeued after the earlier lines
            state = "ENDED, REASON UNKNOWN"
        elif match:
            state = match[1] or "CANCELLED"
    return Past(state, "")
