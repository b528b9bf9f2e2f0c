"""What runs on a node: one array element works through its runs, and comes back when it is told to go.

Imported by submitit on the node; the login node pickles no more than where its work is written down.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from submitit.helpers import Checkpointable

from pbt_bench.running.outcomes import file_digest
from pbt_bench.running.slurm.submissions import Submission
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec

_STOP_SECONDS = 60.0
_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


class Job(Checkpointable):
    """The work of one array element; submitit calls it, and again with the same arguments after every requeue."""

    def __call__(self, folder: Path, array: int, element: int) -> None:
        """Execute what is missing of the runs of one element of the submission in `folder`."""
        _obey_signals()
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
        data = Path(settings.data)
        check_data(missing, data)
        done = ["done"] * (len(specs) - len(missing))
        plan = Plan(specs, {}, missing, retry_failed=bool(settings.retried))
        with (
            Progress(store.folder.name, len(specs), done, min(len(devices), len(missing))) as progress,
            WorkerPool(plan, store, data, progress, settings.checkpoint_seconds) as pool,
        ):
            pool.run(devices)


def _missing(spec: RunSpec, store: Store, retried: dict[str, str]) -> bool:
    """No record, or still the failed one that was to be replaced when this was submitted."""
    path = store.path(spec.run_id)
    if spec.run_id in retried:
        return not path.exists() or file_digest(path) == retried[spec.run_id]
    return store.read(spec.run_id) is None if path.exists() else True


def _obey_signals() -> None:
    """On SIGUSR2 (time limit, preemption): stop the workers, which write checkpoints, then requeue the job.

    SIGTERM means preemption or scancel; only Slurm knows which, so it is asked. Further signals are ignored.
    """
    requeue = signal.getsignal(signal.SIGUSR2)  # submitit's

    def stop(number: int, frame: FrameType | None) -> None:
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        print(f"{signal.Signals(number).name}: stopping the workers", file=sys.stderr, flush=True)
        stop_workers(_STOP_SECONDS)
        if callable(requeue) and (number == signal.SIGUSR2 or _still_wanted()):
            requeue(number, frame)
        sys.exit(143)

    for number in _SIGNALS:
        signal.signal(number, stop)


def stop_workers(seconds: float) -> None:
    """Ask this process's workers to write their checkpoints and end; after `seconds` they are killed."""
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.terminate()
    end = time.monotonic() + seconds
    for worker in workers:
        worker.join(max(0.0, end - time.monotonic()))
        if worker.is_alive():
            worker.kill()
            worker.join()


def _still_wanted(run: Callable[..., str] = subprocess.check_output) -> bool:
    """Does Slurm say that this job is running? A cancelled one is completing by the time it gets SIGTERM."""
    try:
        state = run(["squeue", "-h", "-o", "%T", "-j", os.environ["SLURM_JOB_ID"]], text=True, timeout=20)
    except (OSError, KeyError, subprocess.SubprocessError):
        return False
    return state.strip() == "RUNNING"
