"""Handling of requests to stop a worker process, which saves the state of its run first if it can."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from time import monotonic

SAVE_SECONDS = 60.0  # a worker may take this long to save its state after a request to stop
STOPPED = 143  # exit code of a worker that was stopped


class Stopped(SystemExit):
    """Raised when this process was asked to stop; a run never raises it by itself."""

    def __init__(self) -> None:
        super().__init__(STOPPED)


class StopSignal:
    """Signal handler that ends the process at once, or, while a training can save its state, after the save."""

    def __init__(self) -> None:
        self.received = False
        self.can_save = False

    def __call__(self, *arguments: object) -> None:
        """Handle the signal."""
        self.received = True
        self.check()

    def check(self) -> None:
        """Raise Stopped if the signal was received and there is no state to save."""
        if self.received and not self.can_save:
            raise Stopped


def join_or_kill(workers: Sequence[BaseProcess]) -> None:
    """Wait until `workers`, which were asked to stop, have ended; kill them after `SAVE_SECONDS` or at Ctrl-C."""
    end = monotonic() + SAVE_SECONDS
    try:
        for worker in workers:
            worker.join(max(0.0, end - monotonic()))
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.kill()
                worker.join()


def handle_hangup(handler: Callable[..., object]) -> None:
    """Call `handler` when the terminal is closed, unless nohup has made this process ignore that."""
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handler)
