"""Cache of a study's records in one Parquet file, so that only changed records are read again.

The records are authoritative. A cached row is valid if its record's file still has the size, modification time and
change time that it had when it was read. The cache file is valid if it is intact and was written by this version.
Invalid rows are dropped and read from the records.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pbt_bench.analysis.records.columns import SCHEMA, encode, uncollected
from pbt_bench.analysis.records.forks import FORK, processes, without_fork_warning
from pbt_bench.errors import StoreError, printable
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import MOST_BYTES, Store
from pbt_bench.version import __version__

_BATCH = 2000  # records held as objects at a time
KEY = ("size", "mtime_ns", "ctime_ns")
_FULL = pa.schema([*SCHEMA, *((name, pa.int64()) for name in KEY)])
_MADE_BY = {b"pbt-bench": hashlib.sha256(f"1 {__version__} {_FULL}".encode()).hexdigest().encode()}


def cache_path(store: Store) -> Path:
    """Return the path of a study's cache file, which may not exist."""
    return store.folder / "cache" / "runs.parquet"


@uncollected()
def read(store: Store, ids: Collection[str] | None = None) -> pa.Table:
    """Return the readable records of all runs or of `ids`, sorted by run id, with the columns of `encode` and KEY.

    `ids` and `run_id` are the names of the records' files. Update the cache file. Print the names of unreadable records
    to stderr.
    """
    files = _files(store)
    cached = _load(cache_path(store))
    states = zip(*(cached[name].to_pylist() for name in KEY), strict=True)
    fresh = [files.get(run_id) == state for run_id, state in zip(cached["run_id"].to_pylist(), states, strict=True)]
    kept = cached.filter(pa.array(fresh, pa.bool_()))
    known = set(kept["run_id"].to_pylist())
    wanted = files.keys() if ids is None else files.keys() & set(ids)
    parts = [kept, *_read_changed(store, sorted(wanted - known), files)]
    table = pa.concat_tables(parts).unify_dictionaries().combine_chunks().sort_by("run_id")
    if table.num_rows != cached.num_rows or len(parts) > 1:
        _save(table, cache_path(store))
    if ids is None:
        return table
    return table.filter(pa.array([run_id in wanted for run_id in table["run_id"].to_pylist()], pa.bool_()))


def _files(store: Store) -> dict[str, tuple[int, ...]]:
    """Return size, modification time and change time of each record's file, by run id.

    For a record in a packed file, size and checksum.
    """
    found: dict[str, tuple[int, ...]] = {}
    if packed := store.packed:
        found = {run_id: packed.state(f"runs/{run_id}.json") for run_id in packed.names["runs/"]}
    try:
        entries = os.scandir(store.runs)
    except (FileNotFoundError, NotADirectoryError):
        return found
    except OSError as error:
        raise StoreError(f"{store.runs}: records cannot be read: {error.strerror or error}") from None
    with entries:
        for entry in entries:
            if entry.name.endswith(".json"):
                try:
                    state = entry.stat()
                except OSError:  # a link to nowhere: reading the record names the file
                    state = entry.stat(follow_symlinks=False)
                found[entry.name.removesuffix(".json")] = (state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    return found


def _read_changed(store: Store, run_ids: Sequence[str], files: dict[str, tuple[int, ...]]) -> Iterator[pa.Table]:
    """Yield the records of `run_ids` in batches; use all processors for two or more batches per processor."""
    batches = [
        {run_id: files[run_id] for run_id in run_ids[start : start + _BATCH]}
        for start in range(0, len(run_ids), _BATCH)
    ]
    one = partial(_batch, store)
    if processes() == 1 or len(batches) < 2 * processes():
        yield from filter(len, map(one, batches))
        return
    with ProcessPoolExecutor(processes(), FORK, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        with without_fork_warning():
            tables = pool.map(one, batches)
        yield from filter(len, tables)


def _batch(store: Store, files: dict[str, tuple[int, ...]]) -> pa.Table:
    records = [record for run_id in files if (record := store.read(run_id))]
    try:
        table = encode(records)
    except (OverflowError, ValueError):
        records = [record for record in records if _fits(record, store)]
        table = encode(records)
    for index, name in enumerate(KEY):
        table = table.append_column(name, pa.array([files[r.run_id][index] for r in records], pa.int64()))
    return table


def _fits(record: RunRecord, store: Store) -> bool:
    try:
        encode([record])
    except (OverflowError, ValueError) as error:
        text = f"{store.path(record.run_id)} is not a record ({printable(str(error))})"
        print(f"warning: {text}; it is left out", file=sys.stderr)
        return False
    return True


def _load(path: Path) -> pa.Table:
    """Return the cached table, empty if the file is missing, damaged, or of another version."""
    try:
        if path.is_file() and path.stat().st_size < MOST_BYTES:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                if file.schema_arrow.equals(_FULL) and (file.schema_arrow.metadata or {}).items() >= _MADE_BY.items():
                    table = file.read().replace_schema_metadata(None)
                    if len(set(table["run_id"].to_pylist())) == table.num_rows:
                        return table
    except (OSError, pa.ArrowException, ValueError):
        pass
    return _FULL.empty_table()


def _save(table: pa.Table, path: Path) -> None:
    """Write the cache file atomically; ignore a failure, since the next reader can read the records again."""
    buffer = pa.BufferOutputStream()
    words = [field.name for field in _FULL if pa.types.is_dictionary(field.type)]
    pq.write_table(
        table.replace_schema_metadata(_MADE_BY),
        buffer,
        use_dictionary=words,
        write_page_checksum=True,
        compression="lz4",
    )
    with suppress(OSError):
        Store.put(path, buffer.getvalue())
