"""Read only the status, time and error of records, so that the status of 100,000 runs takes seconds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

import msgspec

from pbt_bench.running.record import Status, first_line
from pbt_bench.running.store import content


class _Environment(msgspec.Struct, frozen=True):
    seconds: float | None = None


class Outcome(msgspec.Struct, frozen=True):
    """The part of a record that counts and estimates use."""

    run_id: str
    status: Status
    environment: _Environment = _Environment()
    error: str | None = None

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds of the run."""
        return self.environment.seconds

    @property
    def error_line(self) -> str:
        """The error in one line."""
        return first_line(self.error) or ""


_OUTCOME_DECODER = msgspec.json.Decoder(Outcome)


def outcomes(runs: Path, ids: Collection[str]) -> dict[str, Outcome]:
    """Return the outcomes of the runs `ids` that have a record in `runs`; damaged files are ignored."""
    wanted = set(ids)
    try:
        names = [name for name in os.listdir(runs) if name.endswith(".json") and name[:-5] in wanted]
    except FileNotFoundError:
        return {}
    found = {}
    for name in names:
        try:
            outcome = _OUTCOME_DECODER.decode(content(runs / name))
        except (OSError, ValueError, RecursionError):
            continue
        if outcome.run_id == name[:-5]:
            found[outcome.run_id] = outcome
    return found


def file_digest(path: Path) -> str:
    """Return a digest of a file, to detect later whether the file changed."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
