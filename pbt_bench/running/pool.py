"""Execute the missing runs of a study on this machine, in worker processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from time import monotonic

import torch

from pbt_bench.errors import RequestError, StoreError
from pbt_bench.running import tuning
from pbt_bench.running.claims import Claims
from pbt_bench.running.messages import Advanced, Assignment, Claimed, Finished, Full
from pbt_bench.running.plan import Plan
from pbt_bench.running.progress import Progress
from pbt_bench.running.record import RunRecord
from pbt_bench.running.signals import SAVE_SECONDS, STOPPED, join_or_kill
from pbt_bench.running.store import Store
from pbt_bench.running.worker import work
from pbt_bench.spec import RunSpec

CHECKPOINT_SECONDS = 300.0  # between two saved states of a run
_MAX_STOPS = 5  # requests to stop that a worker may get during one run before the run fails: it would never end


@dataclass
class _Worker:
    process: SpawnProcess
    link: Connection
    device: str
    current: RunSpec | None = None
    group: tuple[object, ...] = ()


def select_devices(wanted: str | None, workers: int | None) -> list[str]:
    """Return one device name per worker.

    The default is one worker per GPU, or per CPU core without a GPU. Raises RequestError for an unavailable device.
    """
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
        valid = ", ".join(["cpu", "cuda", *names] if names else ["cpu"])
        why = ""
        if wanted.startswith("cuda") and not names:
            why = ": PyTorch finds no GPU" if torch.version.cuda else ": this PyTorch is built without CUDA"
        raise RequestError(f"--device {wanted}: not on this machine{why} (valid: {valid})")
    return [chosen[index % len(chosen)] for index in range(workers or len(chosen))]


class WorkerPool:
    """Worker processes that execute the missing runs of a plan and write one record per finished run.

    Use the pool as a context manager. On exit, also after an interruption, the workers save the state of their runs
    and stop; the next call continues from these states.
    """

    def __init__(
        self, plan: Plan, store: Store, data: Path, progress: Progress, checkpoint_seconds: float = CHECKPOINT_SECONDS
    ) -> None:
        self._plan, self._store, self._data, self._progress = plan, store, data, progress
        self._checkpoint_seconds = checkpoint_seconds
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._backlog = _Backlog(plan.missing)
        self._claims = Claims(store.folder)
        self._claimed: dict[str, RunSpec] = {}  # run id -> run that another process or machine executes
        self._checked = monotonic()
        self._stops: Counter[str] = Counter()  # run id -> workers that died during the run

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()
        self._claims.close()
        with contextlib.suppress(OSError):
            self._store.sweep()

    def run(self, devices: Sequence[str]) -> None:
        """Execute all missing runs on one worker per entry of `devices`.

        Wait for runs that other processes have claimed, and execute them if those processes die. A worker that dies
        leaves a `failed` record of its run and is replaced. Raises StoreError if results cannot be written.
        """
        for device in devices[: len(self._plan.missing)]:
            self._start(device)
        while self._claimed or self._backlog or any(worker.current for worker in self._workers):
            links = [worker.link for worker in self._workers if worker.current]
            ready = set(connection.wait(links, timeout=self._progress.interval))
            for worker in [worker for worker in self._workers if worker.link in ready]:
                self._receive(worker)
            if self._claimed and monotonic() - self._checked > tuning.CHECK_SECONDS:
                self._check_claimed()
            self._progress.tick()

    def _start(self, device: str) -> None:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._store.folder, self._data, device, self._checkpoint_seconds)
        process = self._context.Process(target=work, args=arguments)  # no daemon: it may start loader processes
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours, device))
        self._assign(self._workers[-1])

    def _assign(self, worker: _Worker) -> None:
        spec = worker.current = self._backlog.take(worker.group)
        if spec is None:
            return
        worker.group = spec.group
        with contextlib.suppress(ConnectionError):  # the worker died while idle: the next `recv` reports it
            worker.link.send(Assignment(spec.to_json(), self._plan.retry_failed))
        self._progress.started(spec)

    def _receive(self, worker: _Worker) -> None:
        spec = worker.current
        assert spec is not None
        try:
            message = worker.link.recv()
        except (EOFError, ConnectionError):
            self._replace(worker, spec)
            return
        match message:
            case Advanced():
                self._progress.advanced(spec, message.epoch)
                return
            case Full():
                raise StoreError(message.error)
            case Claimed():
                self._progress.claimed(spec)
                self._claimed[spec.run_id] = spec
            case Finished():
                self._progress.finished(spec, message)
        self._assign(worker)

    def _replace(self, worker: _Worker, spec: RunSpec) -> None:
        """Start a new worker for one that died. Its run fails, or is repeated if the worker was only asked to stop."""
        worker.process.join(SAVE_SECONDS)
        self._workers.remove(worker)
        self._stops[spec.run_id] += 1
        code = worker.process.exitcode
        # A signal ends a worker that has not installed its handlers yet.
        asked = code in (STOPPED, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGUSR2)
        if asked and self._stops[spec.run_id] < _MAX_STOPS:
            self._backlog.put(spec)
        else:
            reason = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            if code == -signal.SIGKILL:
                reason += " (out of memory?)"
            if asked:
                reason = f"it was asked to stop {_MAX_STOPS} times ({reason})"
            error = f"the worker process died: {reason}"
            record = RunRecord.new(spec, "failed", error=error)
            self._store.write(record)
            self._claims.forget(spec.run_id)
            self._progress.finished(spec, Finished.of(record))
        if self._backlog:
            self._start(worker.device)

    def _check_claimed(self) -> None:
        """Count claimed runs that have a record as finished, and take over those whose claim is no longer renewed."""
        try:
            recorded = set(os.listdir(self._store.runs))
            for run_id, spec in list(self._claimed.items()):
                if f"{run_id}.json" in recorded and (record := self._store.finished(run_id, self._plan.retry_failed)):
                    del self._claimed[run_id]
                    self._progress.finished(spec, Finished.of(record))
            for run_id, spec in list(self._claimed.items())[: tuning.CLAIMS_PER_CHECK]:
                del self._claimed[run_id]
                if self._claims.busy(run_id):
                    self._claimed[run_id] = spec  # at the end
                else:
                    self._backlog.put(spec)
        except OSError as error:
            raise StoreError(self._store.unwritable(error)) from None
        for worker in [worker for worker in self._workers if worker.current is None]:
            self._assign(worker)
        self._checked = monotonic()

    def _stop(self) -> None:
        """End the workers: send idle ones None, and busy ones SIGTERM, on which they save the state of their run."""
        for worker in self._workers:
            if worker.current is not None:
                worker.process.terminate()
            else:
                with contextlib.suppress(OSError):
                    worker.link.send(None)
        join_or_kill([worker.process for worker in self._workers])


class _Backlog:
    """The runs that no worker has yet, by group; a worker stays with its group until that is empty."""

    def __init__(self, specs: Sequence[RunSpec]) -> None:
        self._groups: dict[tuple[object, ...], deque[RunSpec]] = {}
        self._started: set[tuple[object, ...]] = set()
        for spec in specs:
            self.put(spec)

    def __bool__(self) -> bool:
        return any(self._groups.values())

    def put(self, spec: RunSpec) -> None:
        self._groups.setdefault(spec.group, deque()).append(spec)

    def take(self, group: tuple[object, ...]) -> RunSpec | None:
        """Return the next run: of `group`, else of a group not started yet, else of the group with most runs left."""
        left = {key: queue for key, queue in self._groups.items() if queue}
        if not left:
            return None
        if group not in left:
            fresh = [key for key in left if key not in self._started]
            group = fresh[0] if fresh else max(left, key=lambda key: len(left[key]))
        self._started.add(group)
        return self._groups[group].popleft()
