"""A worker process: executes the runs it is sent, writes their records, and reports each one.

It ignores Ctrl-C (the parent decides), stops cleanly on SIGTERM, and ends by itself when its parent is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from pbt_bench.spec import RunSpec


@dataclass(frozen=True)
class Finished:
    """A record was written."""

    run_id: str
    status: str
    seconds: float
    test_accuracy: float | None
    error: str | None


@dataclass(frozen=True)
class Advanced:
    """The current run finished an epoch."""

    epoch: int


def work(link: Connection, results: Path, data: Path, device: str) -> None:
    """Serve (spec JSON, methods of its group) pairs from `link` until it sends None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _follow_parent()
    keep_freed_memory()
    import torch

    from pbt_bench.running.execute import Executor
    from pbt_bench.running.store import Store

    executor = Executor(data, torch.device(device))
    store = Store(results)
    while (message := link.recv()) is not None:
        text, methods = message
        spec = RunSpec.from_json(text)
        record = executor.execute(spec, methods, lambda epoch: link.send(Advanced(epoch.epoch)))
        store.write(record, executor.masks)
        link.send(
            Finished(
                record.run_id,
                record.status,
                float(record.environment["seconds"]),
                record.metrics.test_accuracy if record.metrics else None,
                record.error_line,
            )
        )


def keep_freed_memory() -> None:
    """Keep large freed blocks: fresh pages from the system cost more than what a layer computes on them."""
    trim_threshold, mmap_max = -1, -4  # glibc's names: M_TRIM_THRESHOLD, M_MMAP_MAX
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(143)

        threading.Thread(target=follow, daemon=True).start()
