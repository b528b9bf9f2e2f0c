"""Merge the records and masks of several results folders of one study, or pack those of one folder into one file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pbt_bench.errors import RequestError, StoreError, counted, printable
from pbt_bench.running.packed import SUFFIX, write
from pbt_bench.running.record import RunRecord, numbers
from pbt_bench.running.store import NewerRecord, Store, decoded

_NAMED = ("host", "processor", "sparse_kernels", "torch", "numpy", "pbt_bench", "commit")  # of an environment


class SourceError(Exception):
    """Raised if a file of a source cannot be read."""


@dataclass
class Merged:
    """The result of a merge."""

    into: Path
    added: int = 0
    equal: int = 0  # records that the folder had
    replaced: int = 0  # failed records that a result replaced
    newer: list[str] = field(default_factory=list)  # files of a newer version, added
    unreadable: list[str] = field(default_factory=list)  # files left where they are
    differing: list[str] = field(default_factory=list)  # runs with two results, of which the folder's is kept

    def text(self) -> str:
        """Return a summary line, and one line for every file that needs attention."""
        lines = [f"{self.into}: {counted(self.added, 'record')} added, {self.equal} already there"]
        if self.replaced:
            lines[0] += f", {self.replaced} replaced failed ones"
        lines += [f"newer: {name}: written by a newer pbt-bench; copied unread" for name in self.newer]
        lines += [f"unreadable: {name}; not copied" for name in self.unreadable]
        lines += [f"differs: {name}" for name in self.differing]
        return "\n".join(map(printable, lines))


def merge(folders: Sequence[Path], into: Path) -> Merged:
    """Copy the records and masks of `folders`, which may be packed files, to the folder `into`.

    Records of one run with equal numbers are one. Of records with different numbers, that of `into` or of the earlier
    folder is kept, and both environments are named. A result replaces a failed record. Superseded records,
    and unread ones of newer versions, come along. Raises RequestError for a folder without records.
    """
    if into.suffix == SUFFIX:
        raise RequestError(f"--into {into}: it must be a folder; pack it afterwards")
    sources = [_records_of(folder) for folder in folders]
    target = Store(into)
    target.prepare()
    found = Merged(into)
    present = target.names()
    for source in sources:
        for name in sorted(source.names()):
            try:
                _add(source, name, target, name in present, found)
            except (ValueError, RecursionError, SourceError) as error:
                found.unreadable.append(f"{source.path(name)} ({error})")
            except OSError as error:
                raise StoreError(target.unwritable(error)) from None
        present = target.names()
    return found


def _records_of(folder: Path) -> Store:
    store = Store(folder)
    if not store.names():
        raise RequestError(f"{folder}: no records there (expected {store.runs}/*.json, or a packed file)")
    return store


def _add(source: Store, name: str, target: Store, present: bool, found: Merged) -> None:
    """Add one record. Raises ValueError or SourceError if it cannot be read, OSError if it cannot be written."""
    try:
        text = source.content(name)
    except OSError as error:
        raise SourceError(error.strerror or str(error)) from None
    record = _unless_newer(text, name)
    if not present:
        _copy(source, name, text, target)
        if record is None:
            found.newer.append(str(source.path(name)))
        found.added += record is not None
        return
    try:
        there = target.content(name)
        other = _unless_newer(there, name)
    except (OSError, ValueError, RecursionError) as error:
        found.unreadable.append(f"{target.path(name)} ({error}), in the way of {source.path(name)}")
        return
    if text == there or (record and other and numbers(record) == numbers(other)):
        found.equal += 1
        if not (target.masks / f"{name}.bits").exists():
            _copy(source, name, None, target)
    elif record and other and other.status == "failed":
        _copy(source, name, text, target)
        found.replaced += 1
    elif record and other and record.status == "failed":
        found.equal += 1
    else:
        made = [_where(each.environment) if each else "a newer pbt-bench" for each in (other, record)]
        label = record.spec.label if record else ""
        found.differing.append(f"{label} ({name}): kept that of {made[0]}, not {source.path(name)} of {made[1]}")


def _unless_newer(text: bytes, name: str) -> RunRecord | None:
    """Return the record; None for one of a newer version."""
    try:
        return decoded(text, name)
    except NewerRecord:
        return None


def _copy(source: Store, name: str, text: bytes | None, target: Store) -> None:
    """Copy the masks of a run, if there are any, and then its record, if given."""
    with suppress(FileNotFoundError):
        target.put(target.masks / f"{name}.bits", source.mask_content(name))
    if text is not None:
        target.put(target.path(name), text)


def _where(environment: Mapping[str, Any]) -> str:
    return "[" + ", ".join(f"{name} {environment[name]}" for name in _NAMED if environment.get(name)) + "]"


def _unreadable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path} cannot be read: {error.strerror or error}")


def pack(folder: Path, out: Path | None = None, masks_of: Collection[str] | None = None) -> tuple[Path, int, int]:
    """Write records and masks of `folder` to a packed file; return its path and the numbers of records and masks.

    With `masks_of`, names of methods, only the masks of these methods are written. Equal records give equal bytes.
    Raises RequestError for a folder without records or with an unreadable one, and for a method without records.
    """
    store = _records_of(folder)
    path = out or store.folder.with_name(f"{store.folder.name}{SUFFIX}")
    if path.suffix != SUFFIX:
        raise RequestError(f"--out {path}: the name must end with {SUFFIX}, by which it is known")
    records = sorted(store.names())
    masks = sorted(store.masked() & set(records))

    def content(run_id: str) -> tuple[bytes, RunRecord | None]:
        try:
            text = store.content(run_id)
            return text, _unless_newer(text, run_id)
        except OSError as error:
            raise _unreadable(store.path(run_id), error) from None
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{store.path(run_id)} is not a record ({error}): move it away first") from None

    if masks_of is not None:
        methods = {run_id: record.spec.method for run_id in records if (record := content(run_id)[1])}
        if unknown := sorted(set(masks_of) - set(methods.values())):
            have = ", ".join(sorted(set(methods.values())))
            raise RequestError(f"--masks-of {unknown[0]}: {store.folder} has no record of it (valid: {have})")
        masks = [run_id for run_id in masks if methods.get(run_id) in masks_of]

    def members() -> Iterator[tuple[str, bytes]]:
        for run_id in masks:
            try:
                yield f"masks/{run_id}.bits", store.mask_content(run_id)
            except OSError as error:
                raise _unreadable(store.masks / f"{run_id}.bits", error) from None
        for run_id in records:
            yield f"runs/{run_id}.json", content(run_id)[0]

    try:
        write(path, members())
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from None
    return path, len(records), len(masks)
