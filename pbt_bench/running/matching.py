"""Match runs with records that do not have their run id.

A record is *migrated* if its specification is that of a wanted run, but its file has the id that an earlier version
computed, or names the method by an alias. It is *superseded* if it is of a wanted run with other revisions of the code.
The other files of a folder are read only if wanted runs have no record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from pbt_bench.errors import RequestError, note_once, printable
from pbt_bench.identity import with_options, written_id
from pbt_bench.running.source import code_revisions, difference
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec


class _Cell(msgspec.Struct, frozen=True):
    """Fields that two specifications of one run have in common, except the method, which may have an alias."""

    dataset: str
    model: str
    sparsity: float
    seed: int


class _Head(msgspec.Struct):
    run_id: str
    status: str
    spec: _Cell


@dataclass(frozen=True)
class Others:
    """Records of wanted runs under other run ids."""

    migrated: dict[str, str] = field(default_factory=dict)  # wanted run id -> name of the file
    superseded: dict[str, tuple[str, str]] = field(default_factory=dict)  # wanted run id -> (name, reason)


_HEAD_DECODER = msgspec.json.Decoder(_Head)


def find_others(store: Store, specs: Mapping[str, RunSpec]) -> Others:
    """Find migrated and superseded records of those runs of `specs`, by run id, that have no record of their own.

    From now on `store` reads migrated records by the wanted run id. A failed record is never superseded.
    """
    present = store.names()
    missing = specs.keys() - present
    names = sorted(present - specs.keys()) if missing else []
    cells: dict[_Cell, list[RunSpec]] = {}
    for each in (specs[run_id] for run_id in missing if names):
        cells.setdefault(_Cell(each.dataset, each.model, each.sparsity, each.seed), []).append(each)
    found = Others()
    for name in names:
        try:
            text = store.content(name)
            head = _HEAD_DECODER.decode(text)
            wanted = cells.get(head.spec)
            spec = specification(text, name) if wanted and head.run_id == name else None
        except OSError as error:
            note_once(
                f"{store.path(name)} cannot be read ({error.strerror or error}); it may be of a run of this study"
            )
            continue
        except (ValueError, RecursionError):
            continue
        if wanted is None or spec is None:
            continue
        if (run_id := spec.run_id) in missing:
            found.migrated.setdefault(run_id, name)
        elif head.status != "failed":
            for other in wanted:
                if msgspec.structs.replace(spec, revisions=other.revisions) == other:
                    found.superseded[other.run_id] = name, difference(spec.revisions, other.revisions)
    for run_id in found.migrated:
        found.superseded.pop(run_id, None)
    store.migrated = found.migrated
    return found


def specification(text: bytes, name: str) -> RunSpec | None:
    """Return the specification in the record `name`, with today's name of its method.

    None if it is of a newer version or does not belong to the name.
    """
    table = msgspec.json.decode(text)["spec"]
    try:
        spec = msgspec.convert(with_options(table), RunSpec)
    except ValueError:
        return None
    return current(spec) if spec.run_id == name or written_id(table, RunSpec) == name else None


def current(spec: RunSpec) -> RunSpec:
    """Return `spec` with the name of its method in place of an alias."""
    from pbt_bench.pruning.plugins import pruners

    if spec.method not in pruners() or (method := pruners()[spec.method].name) == spec.method:
        return spec
    revisions = {
        f"method {method}" if name == f"method {spec.method}" else name: value for name, value in spec.revisions.items()
    }
    return msgspec.structs.replace(spec, method=method, revisions=revisions)


def revision_note(spec: RunSpec) -> str:
    """Say how the code of this process differs from the revisions of `spec`: `superseded: …`, or `unknown method …`."""
    try:
        changed = difference(spec.revisions, code_revisions(current(spec)))
    except RequestError as error:
        return printable(str(error).split(" (valid", maxsplit=1)[0])
    return f"superseded: {changed}" if changed else ""
