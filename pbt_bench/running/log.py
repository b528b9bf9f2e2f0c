"""One log per run, `<study>/logs/<run_id>.log`: what is printed while it is executed, and a line per epoch."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TextIO

from pbt_bench.running.claims import slurm_job
from pbt_bench.running.store import HOST
from pbt_bench.spec import RunSpec

_TAIL_BYTES = 16_384
_START = re.compile(r"\S+ \S+ start .* pid \d+(?: job (\S+))?$")
_LINE = re.compile(r"(\d{4}-\d\d-\d\d [\d:]{8}) (?:(start) |epoch (\d{1,9})/(\d{1,9}) )")


def log_path(study: Path, run_id: str) -> Path:
    """Where the log of a run is or will be."""
    return study / "logs" / f"{run_id}.log"


class RunLog:
    """Appends to the log of one run. It is open only while a line is written, and never fails a run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def say(self, text: str) -> None:
        """A line with the time."""
        self.append(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text.rstrip()}\n")

    def append(self, text: str) -> None:
        """`text` as it is."""
        with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8", errors="replace") as file:
            file.write(text)


class _Tee(io.TextIOBase):
    """What is printed goes where it always went, and to a log."""

    def __init__(self, stream: TextIO, log: RunLog) -> None:
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        self._log.append(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


@contextlib.contextmanager
def logged(study: Path, spec: RunSpec, device: str) -> Iterator[RunLog]:
    """The log of `spec`; what Python prints while inside is also written to it."""
    path = log_path(study, spec.run_id)
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
    log = RunLog(path)
    job = slurm_job()
    log.say(f"start {spec.label} on {HOST} {device} pid {os.getpid()}" + (f" job {job}" if job else ""))
    out, err = _Tee(sys.stdout, log), _Tee(sys.stderr, log)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield log
    except SystemExit:
        log.say("stopped; it goes on from its last saved state")
        raise


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log; none if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def last_job(path: Path) -> str | None:
    """The Slurm job that began or continued the run last, as far as the end of its log tells."""
    starts = [match for line in tail(path, 1000) if (match := _START.match(line))]
    return starts[-1][1] if starts else None


def position(path: Path) -> tuple[int, int, float | None] | None:
    """(epoch, epochs, seconds left) of a run as its log says; seconds are None until a session's second epoch."""
    seen: list[tuple[datetime, int, int]] = []
    for line in tail(path, 1000):
        if match := _LINE.match(line):
            if match[2]:
                seen.clear()
            else:
                with contextlib.suppress(ValueError):  # something else that a method printed
                    seen.append((datetime.fromisoformat(match[1]), int(match[3]), int(match[4])))
    if not seen:
        return None
    (start, first, _), (now, epoch, epochs) = seen[0], seen[-1]
    left = (now - start).total_seconds() / (epoch - first) * (epochs - epoch) if epoch > first else None
    return epoch, epochs, left
