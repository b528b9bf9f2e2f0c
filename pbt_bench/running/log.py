"""One log per run, `<study>/logs/<run_id>.log`: all that is printed while it is executed, and a line per epoch."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pbt_bench.running.claims import slurm_job
from pbt_bench.spec import RunSpec

_TAIL_BYTES = 16_384
_LINE = re.compile(r"(\S+ \S+) (?:(start) |epoch (\d+)/(\d+))")


def log_path(study: Path, run_id: str) -> Path:
    """Where the log of a run is or will be."""
    return study / "logs" / f"{run_id}.log"


@contextlib.contextmanager
def logged(study: Path, spec: RunSpec, device: str) -> Iterator[None]:
    """While inside, what this process prints, native code included, is appended to the log of `spec`.

    A log that cannot be written (the disk is full) is done without: it never fails a run.
    """
    path = log_path(study, spec.run_id)
    try:
        path.parent.mkdir(exist_ok=True)
        file = path.open("ab")
    except OSError:
        yield
        return
    with file:
        sys.stdout.flush()
        sys.stderr.flush()
        saved = [os.dup(1), os.dup(2)]
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            where = f"{socket.gethostname()} {device} pid {os.getpid()}" + (
                f" job {job}" if (job := slurm_job()) else ""
            )
            write(f"start {spec.label} on {where}")
            yield
        except SystemExit:
            write("stopped; it goes on from its last saved state")
            raise
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            for number, old in zip((1, 2), saved, strict=True):
                os.dup2(old, number)
                os.close(old)


def write(text: str) -> None:
    """A line with the time, to the log that is open."""
    with contextlib.suppress(OSError):
        print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}", file=sys.stderr, flush=True)


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log; none if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def position(path: Path) -> tuple[int, int, float | None] | None:
    """(epoch, epochs, seconds left) of a run as its log says; seconds are None until a session's second epoch."""
    seen: list[tuple[datetime, int, int]] = []
    for line in tail(path, 1000):
        if match := _LINE.match(line):
            if match[2]:
                seen.clear()
            else:
                seen.append((datetime.fromisoformat(match[1]), int(match[3]), int(match[4])))
    if not seen:
        return None
    (start, first, _), (now, epoch, epochs) = seen[0], seen[-1]
    left = (now - start).total_seconds() / (epoch - first) * (epochs - epoch) if epoch > first else None
    return epoch, epochs, left
