"""Read only the status, time and error of records, so that the status of 100,000 runs takes seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import msgspec

from pbt_bench.identity import LATER_OPTIONS, OPTIONS_OF_FORMAT_1
from pbt_bench.running.record import FORMAT, Status, first_line
from pbt_bench.running.store import Store
from pbt_bench.spec import Recipe, RunSpec, Scoring


class _Environment(msgspec.Struct, frozen=True):
    seconds: float | None = None


def _known(name: str, *members: tuple[str, Any]) -> Any:
    """Return a structure that decodes no value, and refuses unknown fields."""
    return msgspec.defstruct(name, [(key, kind, None) for key, kind in members], forbid_unknown_fields=True)


_SCORING = [*Scoring.__struct_fields__, *OPTIONS_OF_FORMAT_1, *LATER_OPTIONS]
_NESTED_PARTS = {
    "recipe": _known("_Recipe", *((name, msgspec.Raw) for name in Recipe.__struct_fields__)),
    "scoring": _known("_Scoring", *((name, msgspec.Raw) for name in _SCORING)),
}
_Spec = _known("_Spec", *((name, _NESTED_PARTS.get(name, msgspec.Raw)) for name in RunSpec.__struct_fields__))


class Outcome(msgspec.Struct, frozen=True):
    """The part of a record that counts and estimates use."""

    run_id: str
    status: Status | Literal["newer"]  # newer: written by a newer version, and not read
    environment: _Environment = _Environment()
    error: str | None = None
    format: int = FORMAT
    spec: _Spec | None = None  # type: ignore[valid-type]  # checked for unknown fields alone

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds of the run."""
        return self.environment.seconds

    @property
    def error_line(self) -> str:
        """The error in one line."""
        return first_line(self.error) or ""


_OUTCOME_DECODER = msgspec.json.Decoder(Outcome)


def outcomes(store: Store, ids: Collection[str]) -> dict[str, Outcome]:
    """Return the outcomes of the runs `ids` that have a record in `store`; damaged files are ignored."""
    wanted = set(ids)
    found = {}
    for run_id in wanted & (store.names() | store.migrated.keys()):
        try:
            outcome = _OUTCOME_DECODER.decode(store.content(run_id))
            newer = outcome.format > FORMAT
        except msgspec.ValidationError:
            newer = store.is_newer(run_id)
            if not newer:
                continue
        except (OSError, ValueError, RecursionError):
            continue
        if newer:
            found[run_id] = Outcome(run_id, "newer")
        elif outcome.run_id == store.migrated.get(run_id, run_id):
            found[run_id] = outcome
    return found


def file_digest(path: Path) -> str:
    """Return a digest of a file, to detect later whether the file changed; "" if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else ""
