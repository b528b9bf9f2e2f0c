"""The verb `cancel`: take what a study has in Slurm's queue out of it."""

from __future__ import annotations

from pbt_bench.running.slurm.command import call
from pbt_bench.running.slurm.queue import queue
from pbt_bench.running.slurm.submissions import Submission, submissions
from pbt_bench.running.store import Store

_AT_ONCE = 500  # ids in one call: a command line is not endless


def cancel(study: str, store: Store) -> int:
    """Cancel all jobs that this study's folder submitted; runs in them save their state. Returns how many.

    Raises SlurmError if Slurm does not answer.
    """
    ours: dict[str, Submission] = {each.folder.name: each for each in submissions(store.folder)}
    if not ours:
        return 0
    live = [entry.job for entry in queue(study) if entry.submission in ours and not entry.over]
    for start in range(0, len(live), _AT_ONCE):
        call("scancel", *live[start : start + _AT_ONCE])
    return len(live)
