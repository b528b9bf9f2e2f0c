"""What Slurm says of a study's jobs: one call of squeue for what is in the queue, one of sacct for what is over.

Both only explain. The result store is the truth: sacct lags, shows NODE_FAIL while a job is being requeued, and
forgets array elements that were cancelled before they started.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pbt_bench.running.log import tail
from pbt_bench.running.slurm.command import call
from pbt_bench.running.slurm.submissions import job_name

_OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
# slurmstepd's last words, in the job's log
_CANCELLED = re.compile(r"\*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT \S+ (?:DUE TO ([A-Z ]*[A-Z]))?")
_LAST_LINES = 100


@dataclass(frozen=True)
class Entry:
    """One array element in Slurm's queue."""

    job: str  # 123_4, or 123 where an array has one element
    state: str
    reason: str  # why it is pending
    node: str
    submission: str  # the name of its folder
    array: int
    element: int

    @property
    def over(self) -> bool:
        """Slurm only remembers it."""
        return self.state in _OVER


def queue(study: str) -> list[Entry]:
    """The array elements of `study` that Slurm has or remembers. Raises SlurmError if it does not answer."""
    text = call("squeue", "-r", "-h", "-t", "all", f"--name={job_name(study)}", "-o", "%i|%K|%T|%N|%r|%k")
    return [entry for line in text.splitlines() if (entry := _entry(line)) is not None]


def _entry(line: str) -> Entry | None:
    job, index, state, node, reason, comment = [*line.split("|", 5), *[""] * 5][:6]
    match = re.fullmatch(r"pbt-bench (\S+) (\d+)", comment.strip())
    if match is None:  # somebody else's job of that name
        return None
    element = int(index) if index.isdigit() else 0
    return Entry(job, state, reason, node, match[1], int(match[2]), element)


@dataclass(frozen=True)
class Past:
    """How a job ended, as accounting has it."""

    state: str
    code: str  # exit code:signal

    @property
    def over(self) -> bool:
        """Accounting lags: what it says may be of before the end."""
        return self.state in _OVER

    @property
    def why(self) -> str:
        """For people."""
        code, _, number = self.code.partition(":")
        said = self.state.lower().replace("_", " ")
        if code not in ("", "0"):
            return f"{said}, exit code {code}"
        return f"{said}, signal {number}" if number not in ("", "0") else said


def history(jobs: Collection[str]) -> dict[str, Past]:
    """The last state of every element of the array jobs `jobs`. Raises SlurmError if accounting does not answer."""
    if not jobs:
        return {}
    text = call("sacct", "-n", "-P", "-X", "-o", "JobID,State,ExitCode", "-j", ",".join(sorted(jobs)))
    found = {}
    for line in text.splitlines():
        job, state, code = [*line.split("|"), "", ""][:3]
        found[job] = Past(state.split()[0] if state else "", code)  # "CANCELLED by 1000"
    return found


def left_behind(log: Path) -> Past | None:
    """How a job ended that Slurm no longer knows, as far as its log tells; None if it has none: it never began."""
    if not log.exists():
        return None
    state = "ENDED, HOW IS NOT KNOWN"
    for line in tail(log, _LAST_LINES):
        match = _CANCELLED.search(line)
        if line.startswith("start ") or (match and match[1] == "JOB REQUEUE"):  # it came back after what was before
            state = "ENDED, HOW IS NOT KNOWN"
        elif match:
            state = match[1] or "CANCELLED"
    return Past(state, "")
