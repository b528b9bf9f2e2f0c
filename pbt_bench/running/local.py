"""Run what is missing of a study on this machine, in worker processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from pbt_bench.errors import RequestError, StoreError
from pbt_bench.running.claims import Claims
from pbt_bench.running.messages import Advanced, Assignment, Claimed, Finished, Full
from pbt_bench.running.plan import Plan
from pbt_bench.running.progress import Progress
from pbt_bench.running.record import RunRecord
from pbt_bench.running.signals import SAVE_SECONDS, STOPPED
from pbt_bench.running.store import Store
from pbt_bench.running.worker import work
from pbt_bench.spec import RunSpec

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

CHECKPOINT_SECONDS = 300.0  # between two saved states of a run
_MOST_STOPS = 5  # of one run by signals to its worker alone, not to this process; one that goes on so never ends
_LOOK_SECONDS = 2.0  # between looks at what others are at
_LOOK_CLAIMS = 20  # at so many claims each time, in turn: on a slow file system thousands would take minutes


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


def run(
    plan: Plan,
    store: Store,
    data: Path,
    places: list[str],
    progress: Progress,
    *,
    wait: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> None:
    """Execute `plan.missing` on one worker per entry of `places`; every finished run is a record in `store`.

    Runs that other processes or machines are at are awaited, and taken over if those die; with `wait` false they
    are left to them. A worker that dies leaves a `failed` record of the run that killed it and is replaced. When
    this call is interrupted, the workers save the state of their runs and stop; the next call goes on from there.
    Raises StoreError if results cannot be written any more.
    """
    queues = _Queues(plan.missing)
    elsewhere: dict[str, RunSpec] = {}  # by run id
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    claims = Claims(store.folder)
    stops: Counter[str] = Counter()
    looked = monotonic()

    def start(device: str) -> None:
        ours, theirs = context.Pipe()
        arguments = (theirs, store.folder, data, device, checkpoint_seconds)
        process = context.Process(target=work, args=arguments)  # no daemon: it may start loader processes
        process.start()
        theirs.close()
        workers.append(_Worker(process, ours, device))
        assign(workers[-1])

    def assign(worker: _Worker) -> None:
        worker.current = queues.take(worker.group)
        if worker.current is None:
            return
        worker.group = worker.current.group
        with contextlib.suppress(ConnectionError):  # a worker that died idle: the next `recv` says so
            worker.link.send(Assignment(worker.current.to_json(), plan.methods(worker.current), plan.retry_failed))
        progress.started(worker.current)

    def answer(worker: _Worker) -> None:
        assert worker.current is not None
        try:
            message = worker.link.recv()
        except (EOFError, ConnectionError):
            stops[worker.current.run_id] += 1
            finished = _died(worker, store, claims, stops[worker.current.run_id] < _MOST_STOPS)
            workers.remove(worker)
            if finished:
                progress.finished(worker.current, finished)
            else:
                queues.put(worker.current)
            if queues:
                start(worker.device)
            return
        if isinstance(message, Advanced):
            progress.advanced(worker.current, message.epoch)
            return
        if isinstance(message, Full):
            raise StoreError(message.error)
        if isinstance(message, Claimed):
            progress.elsewhere(worker.current)
            if wait:
                elsewhere[worker.current.run_id] = worker.current
        else:
            progress.finished(worker.current, message)
        assign(worker)

    def look_elsewhere() -> None:
        """Which of the runs that others had are done, which did they leave?"""
        there = set(os.listdir(store.runs))
        for run_id, spec in list(elsewhere.items()):
            if f"{run_id}.json" in there and (record := store.finished(run_id, plan.retry_failed)):
                del elsewhere[run_id]
                progress.finished(spec, Finished.of(record))
        for run_id, spec in list(elsewhere.items())[:_LOOK_CLAIMS]:
            del elsewhere[run_id]
            if claims.busy(run_id):
                elsewhere[run_id] = spec  # at the end
            else:
                queues.put(spec)
        for worker in [w for w in workers if w.current is None]:
            assign(worker)

    try:
        for device in places[: len(plan.missing)]:
            start(device)
        while elsewhere or queues or any(worker.current for worker in workers):
            links = [w.link for w in workers if w.current]
            ready = set(connection.wait(links, timeout=progress.interval))
            for worker in [w for w in workers if w.link in ready]:
                answer(worker)
            if elsewhere and monotonic() - looked > _LOOK_SECONDS:
                try:
                    look_elsewhere()
                except OSError as error:
                    why = error.strerror or error
                    raise StoreError(f"{store.folder}: results cannot be written: {why}") from None
                looked = monotonic()
            progress.tick()
    finally:
        stop(workers)
        claims.close()
        with contextlib.suppress(OSError):
            store.sweep()


def stop(workers: Sequence[_Worker]) -> None:
    """End the workers: idle ones by telling them, the others by SIGTERM, on which they save the state of their run."""
    for worker in workers:
        if worker.current is not None:
            worker.process.terminate()
        else:
            with contextlib.suppress(OSError):
                worker.link.send(None)
    for worker in workers:
        worker.process.join(SAVE_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _died(worker: _Worker, store: Store, claims: Claims, again: bool) -> Finished | None:
    """Record the run that a worker died of; None if it was only asked to stop, and its run is to be tried `again`."""
    assert worker.current is not None
    worker.process.join(SAVE_SECONDS)
    code = worker.process.exitcode
    asked = code in (STOPPED, -signal.SIGTERM, -signal.SIGUSR2)  # the latter two before it had its handlers
    if asked and again:
        return None
    reason = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        reason += " (out of memory?)"
    if asked:
        reason = f"it was asked to stop {_MOST_STOPS} times ({reason})"
    error = f"the worker process died: {reason}"
    run_id = worker.current.run_id
    record = RunRecord(run_id=run_id, status="failed", spec=worker.current, error=error)
    store.write(record)
    claims.forget(run_id)
    return Finished.of(record)


class _Queues:
    """The runs still to hand out, by group: a worker stays with its group while that has runs left."""

    def __init__(self, specs: Sequence[RunSpec]) -> None:
        self._groups: dict[tuple[object, ...], deque[RunSpec]] = {}
        self._busy: dict[tuple[object, ...], int] = {}
        for spec in specs:
            self.put(spec)

    def __bool__(self) -> bool:
        return any(self._groups.values())

    def put(self, spec: RunSpec) -> None:
        """Give a run back."""
        self._groups.setdefault(spec.group, deque()).append(spec)

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
