"""The status, time and error of records, without their numbers: 100,000 records fit into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import msgspec

from pbt_bench.running.record import Status, first_line
from pbt_bench.running.store import Store, content


class _Environment(msgspec.Struct, frozen=True, gc=False):
    seconds: float | None = None


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The part of a record that counts and estimates use.

    A newer record was written by a newer version, a damaged one is no record, and an unreadable one may be a record.
    """

    run_id: str
    status: Status | Literal["newer", "damaged", "unreadable"]
    environment: _Environment = _Environment()
    error: str | None = None  # also why a file is no record

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds of the run."""
        return self.environment.seconds

    @property
    def error_line(self) -> str:
        """The error in one line."""
        return first_line(self.error) or ""


def outcomes(store: Store, ids: Collection[str]) -> dict[str, Outcome]:
    """Return the outcomes of the runs `ids` that have a file in `store`."""
    present = store.names() | store.migrated.keys()
    found = {}
    for run_id in ids:
        if run_id not in present:
            continue
        record, state, why = store.lookup(run_id)
        if record:
            environment = _Environment(record.environment.get("seconds"))
            found[run_id] = Outcome(run_id, record.status, environment, record.error)
        elif state in ("newer", "damaged", "unreadable"):
            found[run_id] = Outcome(run_id, state, error=why)
    return found


def file_digest(path: Path) -> str:
    """Return a digest of a file, to detect later whether the file changed; "" if there is none."""
    try:
        return hashlib.sha256(content(path)).hexdigest()[:16]
    except (OSError, ValueError):
        return ""
