"""A worker process: claims and executes the runs assigned to it, writes their records, and reports each one.

It ignores Ctrl-C, which the parent handles. On SIGTERM, SIGHUP, SIGUSR2 or the parent's death it saves its state and
stops.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from time import sleep

from pbt_bench.errors import RequestError, StoreError
from pbt_bench.running import tuning
from pbt_bench.running.messages import Advanced, Assignment, Claimed, Finished, Full
from pbt_bench.running.record import RunRecord
from pbt_bench.running.signals import SAVE_SECONDS, STOPPED, StopSignal, handle_hangup
from pbt_bench.spec import RunSpec


def work(link: Connection, results: Path, data: Path, device: str, checkpoint_seconds: float) -> None:
    """Execute each `Assignment` received on `link` until None is received."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))
    handle_hangup(lambda *_: sys.exit(STOPPED))
    _follow_parent()
    keep_freed_memory()
    from pbt_bench.running.source import check_revisions, code_state

    code_state()
    import torch

    from pbt_bench.running.checkpoint import Checkpoint
    from pbt_bench.running.claims import ClaimLost, Claims
    from pbt_bench.running.execute import Executor
    from pbt_bench.running.log import RunLog, logged
    from pbt_bench.running.store import Store
    from pbt_bench.training.loop import EpochResult

    stop = StopSignal()
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, stop)
    handle_hangup(stop)
    data, results = data.absolute(), results.absolute()  # a method may change the working directory
    executor = Executor(data, torch.device(device))
    store, claims = Store(results), Claims(results)

    def advanced(spec: RunSpec, log: RunLog, epoch: EpochResult) -> None:
        log.say(f"epoch {epoch.epoch}/{spec.recipe.epochs} train loss {epoch.train_loss:.4f}")
        with contextlib.suppress(OSError):  # the death of the parent does not fail the run
            link.send(Advanced(epoch.epoch))

    def serve(job: Assignment) -> Finished | Claimed:
        spec = RunSpec.from_json(job.spec)
        run_id = spec.run_id
        if not (record := store.finished(run_id, job.retry_failed)):
            if not claims.take(run_id):
                return Claimed()
            try:  # another worker may have finished it before the claim
                if not (record := store.finished(run_id, job.retry_failed)):
                    try:
                        check_revisions(spec)
                    except RequestError as error:
                        record = RunRecord.new(spec, "failed", error=str(error))
                        store.write(record)
                        return Finished.of(record)
                    checkpoint = Checkpoint(store, run_id, checkpoint_seconds, stop, claims)
                    with logged(results, spec, device) as log:
                        executed = executor.execute(spec, partial(advanced, spec, log), checkpoint)
                        claims.check()
                        record = executed.record
                        store.write(record, executed.masks)
                        log.say(record.error or record.status)
            except ClaimLost:
                return Claimed()
            finally:
                claims.release()
        return Finished.of(record)

    try:
        while (job := link.recv()) is not None:
            try:
                link.send(serve(job))
            except StoreError as error:
                link.send(Full(str(error)))
            except OSError as error:  # from claims: the folder is missing or read-only
                link.send(Full(store.unwritable(error)))
    except (BrokenPipeError, EOFError):  # the parent died
        sys.exit(STOPPED)
    finally:
        claims.close()


def keep_freed_memory() -> None:
    """Keep freed memory in the process, because new pages from the system cost more time than a layer's computation.

    Blocks of `KEPT_BYTES` or more are returned, because they fragment memory: ResNet-18 with batches of 512 would need
    6 GiB instead of 5.
    """
    trim_threshold, mmap_threshold = -1, -3  # glibc's names: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, tuning.KEPT_BYTES)
        libc.mallopt(trim_threshold, 2**31 - 1)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)
            sleep(SAVE_SECONDS)
            os._exit(STOPPED)

        threading.Thread(target=follow, daemon=True).start()
