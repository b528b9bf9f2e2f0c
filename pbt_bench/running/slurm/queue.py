"""What Slurm says of a study's jobs: one call of squeue for what is in the queue, one of sacct for what is over.

Both only explain. The result store is the truth: sacct lags, shows NODE_FAIL while a job is being requeued, and
forgets array elements that were cancelled before they started.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from pbt_bench.running.slurm.command import call
from pbt_bench.running.slurm.submissions import job_name

_OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip


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
