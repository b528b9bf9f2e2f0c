"""The verdicts of audits on records, `<study>/audits.json`, which audits write and reports read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Literal

import msgspec

from pbt_bench.running.store import Store, content, set_aside

Extent = Literal["record", "masks", "training"]  # recomputed: nothing, the masks, the whole training
Kind = Literal["equal", "rounding", "undecided", "fault"]
_EXTENTS: tuple[Extent, ...] = ("record", "masks", "training")


class Verdict(msgspec.Struct, frozen=True):
    """The verdict of an audit on one record: its extent, and whether a recomputation gave the same."""

    extent: Extent
    kind: Kind = "equal"  # rounding, undecided: another machine gave other bits, as rounding makes them, or may
    text: str = ""  # the differences
    record: str = ""  # digest of the record's file
    by: str = ""  # who audited, as they named themselves


_LOG_DECODER = msgspec.json.Decoder(dict[str, Verdict])


def add_verdicts(store: Store, verdicts: Mapping[str, Verdict]) -> None:
    """Add the verdicts of an audit, by run id. Ignore a read-only folder.

    A verdict without a fault does not replace one of a larger extent on the same record. A file that has no verdicts is
    kept under another name.
    """
    path, known = store.folder / "audits.json", _verdicts(store)
    if not known and os.path.lexists(path):
        with suppress(OSError):
            set_aside(path)
    for run_id, verdict in verdicts.items():
        new = msgspec.structs.replace(verdict, record=_file_digest_of(store, run_id))
        old = known.get(run_id)
        larger = old is not None and _EXTENTS.index(old.extent) > _EXTENTS.index(new.extent)
        if old is None or old.record != new.record or new.kind == "fault" or not larger:
            known[run_id] = new
    with suppress(OSError):
        if store.packed:  # the folder beside a packed study need not exist
            store.folder.mkdir(parents=True, exist_ok=True)
        Store.put(path, msgspec.json.encode(dict(sorted(known.items()))))


def audited_records(store: Store, run_ids: Collection[str]) -> dict[str, str]:
    """Return the verdicts on those of `run_ids` whose record is unchanged since, and was recomputed or has a fault.

    A verdict is "rounding", "undecided", "fault", or, for equal values, what was recomputed: "masks" or "training".
    """
    wanted = set(run_ids)
    found = {run_id: verdict for run_id, verdict in _verdicts(store).items() if run_id in wanted}
    return {
        run_id: verdict.extent if verdict.kind == "equal" else verdict.kind
        for run_id, verdict in found.items()
        if (verdict.kind, verdict.extent) != ("equal", "record") and verdict.record == _file_digest_of(store, run_id)
    }


def auditors(store: Store, run_ids: Collection[str]) -> dict[str, str]:
    """Return who audited those of `run_ids` that `audited_records` returns; "" if they gave no name."""
    found = _verdicts(store)
    return {run_id: found[run_id].by for run_id in audited_records(store, run_ids)}


def _verdicts(store: Store) -> dict[str, Verdict]:
    try:
        return _LOG_DECODER.decode(content(store.folder / "audits.json"))
    except (OSError, ValueError, RecursionError):
        return {}


def _file_digest_of(store: Store, run_id: str) -> str:
    try:
        return hashlib.sha256(store.content(run_id)).hexdigest()[:16]
    except (OSError, ValueError):
        return ""
