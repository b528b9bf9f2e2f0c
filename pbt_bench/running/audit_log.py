"""The log of recomputed records, `<study>/audits.json`, which audits write and reports read."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Literal

import msgspec

from pbt_bench.running.store import Store

Extent = Literal["masks", "training"]


class _Entry(msgspec.Struct, frozen=True):
    record: str  # digest of the record's file
    extent: Extent


_LOG_DECODER = msgspec.json.Decoder(dict[str, _Entry])


def add_audited(store: Store, run_ids: Iterable[str], extent: Extent) -> None:
    """Add runs whose masks, or whole training, an audit has recomputed without a fault. Ignore a read-only folder."""
    known = _entries(store)
    for run_id in run_ids:
        entry = _Entry(_file_digest_of(store, run_id), extent)
        before = known.get(run_id)
        if before is None or before.record != entry.record or extent == "training":
            known[run_id] = entry
    with suppress(OSError):
        Store.put(store.folder / "audits.json", msgspec.json.encode(dict(sorted(known.items()))))


def recomputed_records(store: Store, run_ids: Collection[str]) -> dict[str, Extent]:
    """Return what an audit has recomputed of those of `run_ids` whose record is unchanged since."""
    wanted = set(run_ids)
    entries = {run_id: entry for run_id, entry in _entries(store).items() if run_id in wanted}
    return {run_id: entry.extent for run_id, entry in entries.items() if entry.record == _file_digest_of(store, run_id)}


def _entries(store: Store) -> dict[str, _Entry]:
    try:
        return _LOG_DECODER.decode((store.folder / "audits.json").read_bytes())
    except (OSError, ValueError):
        return {}


def _file_digest_of(store: Store, run_id: str) -> str:
    try:
        return hashlib.sha256(store.content(run_id)).hexdigest()[:16]
    except (OSError, ValueError):
        return ""
