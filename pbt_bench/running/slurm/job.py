"""The job on a node: one array element executes its runs, and is requeued when it is asked to stop.

submitit imports this module on the node. The pickled job contains only the path of the submission and two indices.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from submitit.helpers import Checkpointable

from pbt_bench.running.outcomes import file_digest
from pbt_bench.running.signals import STOPPED, join_or_kill
from pbt_bench.running.slurm.staging import expanded, files_read, staged
from pbt_bench.running.slurm.submissions import Submission
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec

_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


class Job(Checkpointable):
    """One array element; submitit calls it at the start and with the same arguments after every requeue."""

    def __call__(self, folder: Path, array: int, element: int) -> None:
        """Execute the missing runs of one element of the submission in `folder`."""
        _install_handlers()
        from pbt_bench.running.plan import Plan, check_data
        from pbt_bench.running.pool import WorkerPool, select_devices
        from pbt_bench.running.progress import Progress

        submission = Submission(folder)
        settings = submission.settings
        store = Store(settings.study)
        specs = submission.specs(array, element)
        missing = [spec for spec in specs if _missing(spec, store, settings.retried)]
        start = f"start {int(os.environ.get('SLURM_RESTART_COUNT', 0)) + 1}"
        print(f"{start} of this job: {len(missing)} of its {len(specs)} runs to do", file=sys.stderr, flush=True)
        if not missing:
            return
        store.prepare()
        devices = select_devices(settings.device, settings.workers)
        data = expanded("data", settings.data)
        if settings.stage:
            data = staged(data, files_read(missing, data), expanded("stage", settings.stage))
        check_data(missing, data)
        done = ["done"] * (len(specs) - len(missing))
        plan = Plan(specs, {}, missing, retry_failed=bool(settings.retried))
        with (
            Progress(store.folder.name, len(specs), done, min(len(devices), len(missing))) as progress,
            WorkerPool(plan, store, data, progress, settings.checkpoint_seconds) as pool,
        ):
            pool.run(devices)


def _missing(spec: RunSpec, store: Store, retried: dict[str, str]) -> bool:
    """Return whether `spec` has no record, or still has the failed record that this submission is to replace."""
    path = store.path(spec.run_id)
    if spec.run_id in retried:
        return not path.exists() or file_digest(path) == retried[spec.run_id]
    return store.lookup(spec.run_id).state in ("absent", "damaged")


def _install_handlers() -> None:
    """Stop the workers, which write checkpoints, and requeue the job on SIGUSR2 (time limit, preemption).

    SIGTERM means preemption or scancel; squeue tells which of the two. Further signals are ignored.
    """
    requeue = signal.getsignal(signal.SIGUSR2)  # submitit's

    def stop(number: int, frame: FrameType | None) -> None:
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        print(f"{signal.Signals(number).name}: stopping the workers", file=sys.stderr, flush=True)
        workers = multiprocessing.active_children()
        for worker in workers:
            worker.terminate()
        join_or_kill(workers)
        if callable(requeue) and (number == signal.SIGUSR2 or _runs_in_slurm()):
            requeue(number, frame)
        sys.exit(STOPPED)

    for number in _SIGNALS:
        signal.signal(number, stop)


def _runs_in_slurm() -> bool:
    """Return whether Slurm reports this job as running. A cancelled job is completing when it receives SIGTERM."""
    try:
        command = ["squeue", "-h", "-o", "%T", "-j", os.environ["SLURM_JOB_ID"]]
        state = subprocess.check_output(command, text=True, timeout=20)
    except (OSError, KeyError, subprocess.SubprocessError):
        return False
    return state.strip() == "RUNNING"
