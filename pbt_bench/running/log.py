"""The log of a run, `<study>/logs/<run_id>.log`: everything that the run prints, and one line per epoch."""

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
from pbt_bench.running.store import HOST, open_file
from pbt_bench.spec import RunSpec

_TAIL_BYTES = 16_384
_START_LINE = re.compile(r"\S+ \S+ start .* pid \d+(?: job (\S+))?$")
_PROGRESS_LINE = re.compile(r"(\d{4}-\d\d-\d\d [\d:]{8}) (?:(start) |epoch (\d{1,9})/(\d{1,9}) )")


def log_path(study: Path, run_id: str) -> Path:
    """Return the path of the log of a run, which need not exist."""
    return study / "logs" / f"{run_id}.log"


class RunLog:
    """Append to the log of one run. The file is open only during a write, and its errors do not fail the run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def say(self, text: str) -> None:
        """Append a line that starts with the time."""
        self.append(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text.rstrip()}\n")

    def append(self, text: str) -> None:
        """Append `text` unchanged."""
        with contextlib.suppress(OSError), open(self._path, "ab", opener=open_file) as file:
            file.write(text.encode(errors="replace"))


class _Tee(io.TextIOBase):
    """Write to a stream and to a log."""

    def __init__(self, stream: TextIO, log: RunLog) -> None:
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        self._log.append(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


@contextlib.contextmanager
def logged(study: Path, spec: RunSpec, device: str) -> Iterator[RunLog]:
    """Open the log of `spec`, and copy everything that Python prints inside the context to it."""
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
        log.say("stopped; the next execution continues from the last saved state")
        raise


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a log; an empty list if there is no log."""
    try:
        with open(path, "rb", opener=open_file) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode(errors="replace")
    except (OSError, ValueError):
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def last_job(path: Path) -> str | None:
    """Return the Slurm job of the last start in the end of the log; None if there is none."""
    starts = [match for line in tail(path, 1000) if (match := _START_LINE.match(line))]
    return starts[-1][1] if starts else None


def position(path: Path) -> tuple[int, int, float | None] | None:
    """Return (epoch, epochs, seconds left) from the log; seconds are None before a session's second epoch."""
    seen: list[tuple[datetime, int, int]] = []
    for line in tail(path, 1000):
        if match := _PROGRESS_LINE.match(line):
            if match[2]:
                seen.clear()
            else:
                with contextlib.suppress(ValueError):  # a method printed a similar line
                    seen.append((datetime.fromisoformat(match[1]), int(match[3]), int(match[4])))
    if not seen:
        return None
    (start, first, _), (now, epoch, epochs) = seen[0], seen[-1]
    left = (now - start).total_seconds() / (epoch - first) * (epochs - epoch) if epoch > first else None
    return epoch, epochs, left
