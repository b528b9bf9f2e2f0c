"""Cancel the Slurm jobs of a study, for the verb `cancel`."""

from __future__ import annotations

from pbt_bench.running.slurm.command import call
from pbt_bench.running.slurm.queue import queue
from pbt_bench.running.slurm.submissions import submissions
from pbt_bench.running.store import Store

_IDS_PER_CALL = 500  # the length of a command line is limited


def cancel(study: str, store: Store) -> int:
    """Cancel all jobs submitted from the study's folder, and return their number; their runs save their state.

    Raises SlurmError if Slurm does not answer.
    """
    ours = {submission.folder.name for submission in submissions(store.folder)}
    if not ours:
        return 0
    live = [entry.job for entry in queue(study) if entry.submission in ours and not entry.over]
    for start in range(0, len(live), _IDS_PER_CALL):
        call("scancel", *live[start : start + _IDS_PER_CALL])
    return len(live)
