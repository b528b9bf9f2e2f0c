"""Run what is missing of a study on this machine, in worker processes."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from pbt_bench.errors import RequestError
from pbt_bench.running.plan import Plan
from pbt_bench.running.progress import Progress
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store
from pbt_bench.running.worker import Advanced, Finished, work
from pbt_bench.spec import RunSpec

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

_STOP_SECONDS = 5.0


@dataclass
class _Worker:
    process: SpawnProcess
    link: Connection
    device: str
    current: RunSpec | None = None
    group: tuple[object, ...] = field(default=())


def devices(wanted: str | None, workers: int | None) -> list[str]:
    """One device name per worker.

    By default one worker per GPU, or one per CPU core where there is none. Raises RequestError for a device
    that is not there.
    """
    import torch

    if workers is not None and workers < 1:
        raise RequestError(f"--workers {workers}: must be at least 1")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted is None:
        wanted = "cuda" if gpus else "cpu"
    if wanted == "cpu":
        return ["cpu"] * (workers or len(os.sched_getaffinity(0)))
    names = [f"cuda:{index}" for index in range(gpus)]
    chosen = names if wanted == "cuda" else [name for name in names if name == wanted]
    if not chosen:
        raise RequestError(f"--device {wanted}: not on this machine (valid: {', '.join(['cpu', 'cuda', *names])})")
    return [chosen[index % len(chosen)] for index in range(workers or len(chosen))]


def run(plan: Plan, store: Store, data: Path, places: list[str], progress: Progress) -> None:
    """Execute `plan.missing` on one worker per entry of `places`; every finished run is a record in `store`.

    A worker that dies leaves a `failed` record of the run that killed it and is replaced. On KeyboardInterrupt
    the workers are stopped; what they had not finished is simply missing.
    """
    queues = _Queues(plan.missing)
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []

    def start(device: str) -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, store.folder, data, device), daemon=True)
        process.start()
        theirs.close()
        workers.append(_Worker(process, ours, device))
        assign(workers[-1])

    def assign(worker: _Worker) -> None:
        worker.current = queues.take(worker.group)
        if worker.current is None:
            worker.link.send(None)
            return
        worker.group = worker.current.group
        worker.link.send((worker.current.to_json(), plan.methods(worker.current)))
        progress.started(worker.current)

    try:
        for device in places[: len(plan.missing)]:
            start(device)
        while any(worker.current for worker in workers):
            ready = set(wait([w.link for w in workers if w.current], timeout=progress.interval))
            for worker in [w for w in workers if w.link in ready]:
                assert worker.current is not None
                try:
                    message = worker.link.recv()
                except (EOFError, ConnectionError):
                    finished = _died(worker, store)
                    workers.remove(worker)
                    progress.finished(worker.current, finished)
                    if queues:
                        start(worker.device)
                    continue
                if isinstance(message, Advanced):
                    progress.advanced(worker.current, message.epoch)
                else:
                    progress.finished(worker.current, message)
                    assign(worker)
            progress.tick()
    finally:
        for worker in workers:
            if worker.current is not None:
                worker.process.terminate()
        for worker in workers:
            worker.process.join(_STOP_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        store.sweep()


def _died(worker: _Worker, store: Store) -> Finished:
    """Record the run that a worker died of."""
    assert worker.current is not None
    worker.process.join(_STOP_SECONDS)
    code = worker.process.exitcode
    reason = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    if code == -9:
        reason += " (out of memory?)"
    error = f"the worker process died: {reason}"
    run_id = worker.current.run_id
    store.write(RunRecord(run_id=run_id, status="failed", spec=worker.current, error=error))
    return Finished(run_id, "failed", 0.0, None, error)


class _Queues:
    """The runs still to hand out, by group: a worker stays with its group while that has runs left."""

    def __init__(self, specs: Sequence[RunSpec]) -> None:
        self._groups: dict[tuple[object, ...], deque[RunSpec]] = {}
        self._busy: dict[tuple[object, ...], int] = {}
        for spec in specs:
            self._groups.setdefault(spec.group, deque()).append(spec)

    def __bool__(self) -> bool:
        return any(self._groups.values())

    def take(self, group: tuple[object, ...]) -> RunSpec | None:
        """The next run: of `group`, else of an untouched group, else of the one with most runs left."""
        left = {key: queue for key, queue in self._groups.items() if queue}
        if not left:
            return None
        if group not in left:
            fresh = [key for key in left if key not in self._busy]
            group = fresh[0] if fresh else max(left, key=lambda key: len(left[key]))
        self._busy[group] = self._busy.get(group, 0) + 1
        return self._groups[group].popleft()
