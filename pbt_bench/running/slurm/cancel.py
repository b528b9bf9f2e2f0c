"""Cancel the Slurm jobs of a study, for the verb `cancel`."""

from __future__ import annotations

from pbt_bench.running.slurm.command import call
from pbt_bench.running.slurm.queue import queue
from pbt_bench.running.slurm.submissions import all_submissions
from pbt_bench.running.store import Store

_IDS_PER_CALL = 500  # the length of a command line is limited


def cancel(store: Store) -> int:
    """Cancel all jobs submitted from the study's folder, and return their number; their runs save their state.

    Raises SlurmError if Slurm does not answer.
    """
    known = all_submissions(store.folder)
    live: dict[str | None, list[str]] = {}
    for entry in queue(known):
        if not entry.over:
            live.setdefault(entry.clusters, []).append(entry.job)
    for clusters, jobs in live.items():
        for start in range(0, len(jobs), _IDS_PER_CALL):
            call("scancel", *jobs[start : start + _IDS_PER_CALL], clusters=clusters)
    return sum(map(len, live.values()))
