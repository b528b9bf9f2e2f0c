"""The result store: one folder per study and one JSON file per finished run. It is the only state between calls.

Every file is written under another name and renamed, so that no reader sees an incomplete record, also on NFS.
Records that `pbt-bench pack` put into one file are read as if they were in the folder.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
import sys
import tempfile
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from pbt_bench.errors import RequestError, StoreError, note_once, printable
from pbt_bench.identity import with_options, written_id
from pbt_bench.running.packed import SUFFIX, Packed, packed_file
from pbt_bench.running.record import FORMAT, Layer, RunRecord, digest
from pbt_bench.spec import Recipe, RunSpec, Scoring

FOREIGN_SECONDS = 3600.0  # age at which another machine's incomplete file counts as abandoned
_NOT_THERE = (FileNotFoundError, NotADirectoryError)  # every other error is of a file that is there
_MOST_WEIGHTS = 10**9  # of the masks of one network: one byte each when they are read
MOST_BYTES = 10**9  # size of the largest file that is read
HOST = socket.gethostname().split(".")[0]


def _machine_name() -> str:
    """Name the machine whose process ids are comparable with this process's: two may have one host name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return f"{HOST}-{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return f"{HOST}-{secrets.token_hex(4)}"


MACHINE = _machine_name()
_RECORD_DECODER = msgspec.json.Decoder(RunRecord)
_KNOWN_FIELDS = {kind: set(kind.__struct_fields__) for kind in (RunSpec, Recipe, Scoring)}


class NewerRecord(ValueError):
    """A record of a newer version of pbt-bench: another format, or a specification with unknown fields."""

    def __init__(self) -> None:
        super().__init__("it was written by a newer pbt-bench")


class Lookup(NamedTuple):
    """The file of a run in a store: its record, or the reason why it has none."""

    record: RunRecord | None = None
    state: Literal["record", "absent", "newer", "damaged", "unreadable"] = "record"
    why: str = ""  # one line with the file, unless there is a record or no file


class Store:
    """The records of one study, in `<folder>/runs/<run_id>.json`, and masks, in `<folder>/masks/<run_id>.bits`.

    Unfinished runs may have `checkpoints/<run_id>.pt` and `claims/<run_id>.N`.
    """

    def __init__(self, folder: str | Path) -> None:
        found = packed_file(Path(folder))
        self.folder = Path(folder).with_suffix("") if found == Path(folder) else Path(folder)
        self.runs = self.folder / "runs"
        self.masks = self.folder / "masks"
        self.packed = Packed(found) if found else None
        self.migrated: dict[str, str] = {}  # run id -> file name of its record, where another version computed the id

    def prepare(self) -> None:
        """Create the folders and remove incomplete files. Raises RequestError if the folder is not writable."""
        self._check_folders()
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.runs):
                self.sweep()
        except OSError as error:
            raise RequestError(self.unwritable(error)) from None

    def unwritable(self, error: OSError) -> str:
        """Return the message for an `error` of writing to the folder."""
        return f"{self.folder}: results cannot be written: {error.strerror or error}"

    def path(self, run_id: str) -> Path:
        """Return the path of the record of `run_id`, which need not exist."""
        return self.runs / f"{run_id}.json"

    def names(self) -> set[str]:
        """Return the names of the files of all records, which are run ids, in the folder and in the packed file.

        Raises StoreError if the folder is there and cannot be read, RequestError if it is a file or a link to nothing.
        """
        try:
            found = {name.removesuffix(".json") for name in os.listdir(self.runs) if name.endswith(".json")}
        except _NOT_THERE:
            self._check_folders()
            found = set()
        except OSError as error:
            raise StoreError(f"{self.runs}: records cannot be read: {error.strerror or error}") from None
        return found | self.packed.names["runs/"] if self.packed else found

    def _check_folders(self) -> None:
        for path in (self.folder.parent, self.folder, self.runs):
            check_folder(path)

    def masked(self) -> set[str]:
        """Return the run ids that have masks; if their folder cannot be read, say so once on stderr."""
        found = set()
        try:
            found = {name.removesuffix(".bits") for name in os.listdir(self.masks) if name.endswith(".bits")}
        except _NOT_THERE:
            pass
        except OSError as error:
            note_once(f"{self.masks}: masks cannot be read: {error.strerror or error}")
        found |= self.packed.names["masks/"] if self.packed else set()
        return found | {run_id for run_id, name in self.migrated.items() if name in found}

    def content(self, run_id: str, kind: str = "runs/", suffix: str = ".json") -> bytes:
        """Return the file of a record. Raises OSError or ValueError if it cannot be read."""
        name = f"{kind}{self.migrated.get(run_id, run_id)}{suffix}"
        try:
            return content(self.folder / name)
        except _NOT_THERE:
            if self.packed is None:
                raise
            return self.packed.content(name, MOST_BYTES)

    def mask_content(self, run_id: str) -> bytes:
        """Return the file of the masks of a run. Raises OSError or ValueError if it cannot be read."""
        return self.content(run_id, "masks/", ".bits")

    def checkpoint(self, run_id: str) -> Path:
        """Return the path of the saved state of `run_id`, which need not exist."""
        return self.folder / "checkpoints" / f"{run_id}.pt"

    def finished(self, run_id: str, retry_failed: bool = False) -> RunRecord | None:
        """Return the record of `run_id`; None if the run has to be executed.

        Raises StoreError if its file is there and cannot be read: the run may be finished.
        """
        found = self.lookup(run_id)
        if found.state == "unreadable":
            raise StoreError(found.why)
        record = found.record
        return None if record is None or (retry_failed and record.status == "failed") else record

    def write(self, record: RunRecord, masks: Mapping[str, NDArray[np.bool_]] | None = None) -> None:
        """Write the masks, if given, and then `record`, each completely or not at all.

        Remove the checkpoint unless the run failed. A file that is no record is kept under another name. Raises
        StoreError if the folder cannot be written, or if the record there was written by a newer version.
        """
        before = self.lookup(record.run_id)
        if before.state == "newer":
            raise StoreError(f"{self.path(record.run_id)}: {NewerRecord()}, and is kept")
        try:
            if before.state in ("damaged", "unreadable"):
                set_aside(self.path(record.run_id))
            if masks is not None:
                packed = np.packbits(np.concatenate([mask.ravel() for mask in masks.values()]))
                self.put(self.masks / f"{record.run_id}.bits", zlib.compress(packed.tobytes(), 6))
            self.put(self.path(record.run_id), record.to_json())
            if record.status != "failed":  # a retry continues from it
                remove(self.checkpoint(record.run_id))
        except OSError as error:
            raise StoreError(f"{self.unwritable(error)}; finished runs are kept") from None

    def read_masks(self, record: RunRecord) -> dict[str, NDArray[np.bool_]] | None:
        """Return the masks of a run by layer, True = kept; None if they are missing or have another digest."""
        found = record.pruning
        return None if found is None else self.masks_of(record.run_id, found.layers, found.mask_digest)

    def masks_of(self, run_id: str, layers: Sequence[Layer], mask_digest: str) -> dict[str, NDArray[np.bool_]] | None:
        """Return the masks as `read_masks` does, given the parts of the record that describe them."""
        try:
            stored = self.mask_content(run_id)
            prunable = sum(layer.prunable for layer in layers)
            if prunable > _MOST_WEIGHTS:
                raise ValueError(f"more than {_MOST_WEIGHTS} weights")
            packed = zlib.decompressobj().decompress(stored, prunable // 8 + 1)
            bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8)).view(bool)[:prunable]
            parts = np.split(bits, np.cumsum([layer.prunable for layer in layers])[:-1])
            masks = {layer.name: part.reshape(layer.shape) for layer, part in zip(layers, parts, strict=True)}
        except (OSError, zlib.error, ValueError):
            return None
        return masks if digest(masks) == mask_digest else None

    def mask_fault(self, run_id: str) -> str:
        """Return why `read_masks` returns None for a finished run, such as "is damaged"; "" if no masks are stored."""
        try:
            self.mask_content(run_id)
        except _NOT_THERE:
            return ""
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"
        except ValueError as error:
            return f"is damaged ({error})"
        return "has another digest"

    @staticmethod
    def put(path: Path, content: bytes) -> None:
        """Write a file under a temporary name and rename it; create its folder, but not the parent of the folder."""
        path.parent.mkdir(exist_ok=True)
        part = path.with_name(f".{path.stem}.{MACHINE}.{os.getpid()}.tmp")
        for other in (part, path):  # a pipe would block, a folder cannot be replaced
            if os.path.lexists(other) and not other.is_file():
                set_aside(other)
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def sweep(self) -> None:
        """Remove incomplete files of dead processes, and checkpoints and claims of finished runs."""
        for part in self.folder.glob("*/.*.tmp"):
            machine, pid = part.name.split(".")[-3:-1]
            ours = machine == MACHINE
            if (ours and not Path(f"/proc/{pid}").exists()) or (not ours and _age(part) > FOREIGN_SECONDS):
                remove(part)
        for left in (*self.folder.glob("checkpoints/*.pt*"), *self.folder.glob("claims/*.*")):
            record = self.lookup(left.name.split(".")[0]).record
            if record and record.status != "failed":
                remove(left)

    def records(self, ids: Collection[str] | None = None) -> list[RunRecord]:
        """Return the readable records of all runs, or of `ids`, by run id; name unreadable ones on stderr."""
        present = self.names() | self.migrated.keys()
        found = (self.read(run_id) for run_id in sorted(present if ids is None else present & set(ids)))
        return [record for record in found if record is not None]

    def lookup(self, run_id: str) -> Lookup:
        """Return what there is of `run_id`. Every reader of records uses it, so that all agree."""
        name = self.migrated.get(run_id, run_id)
        try:
            record = decoded(self.content(name), name)
            return Lookup(record if name == run_id else msgspec.structs.replace(record, run_id=run_id))
        except _NOT_THERE:
            return Lookup(None, "absent")
        except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            path = printable(str(self.path(name)))
            if isinstance(error, NewerRecord):
                return Lookup(None, "newer", f"{path}: {error}; it is kept")
            if isinstance(error, OSError):
                why = f"{path} cannot be read ({error.strerror or error}); it is kept, and its run is not repeated"
                return Lookup(None, "unreadable", why)
            return Lookup(None, "damaged", f"{path} is not a record ({printable(str(error))}); its run is repeated")

    def read(self, run_id: str) -> RunRecord | None:
        """Return the record of `run_id`; None, with a warning on stderr, if its file is none of this version."""
        found = self.lookup(run_id)
        if found.why:
            print(f"warning: {found.why}", file=sys.stderr)
        return found.record

    def is_newer(self, run_id: str) -> bool:
        """Return whether the record of `run_id` was written by a newer version."""
        return self.lookup(run_id).state == "newer"


def set_aside(path: Path) -> None:
    """Keep a file that cannot be used under another name, NAME.unreadable-N."""
    number = 1
    while os.path.lexists(other := path.with_name(f"{path.name}.unreadable-{number}")):
        number += 1
    path.rename(other)


def check_folder(path: Path) -> None:
    """Raise RequestError if `path` is a link to nothing, or a file in the position of a folder."""
    if os.path.islink(path) and not os.path.lexists(os.path.realpath(path)):
        raise RequestError(f"{path} is a link to {os.readlink(path)}, which is not there")
    if os.path.isfile(path):
        raise RequestError(f"{path} is a file, not a folder")


def remove(path: Path) -> None:
    """Remove a file if it is there; leave a folder."""
    with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
        path.unlink()


def decoded(text: bytes, name: str = "") -> RunRecord:
    """Decode a record, also of version 0.1, and check that it describes the run `name`, if that is given.

    Raises NewerRecord for a record of a newer version, and ValueError if it is not a record.
    """
    table: Any = None
    try:
        record = _RECORD_DECODER.decode(text)
    except msgspec.ValidationError:
        table = msgspec.json.decode(text)
        if not isinstance(table, dict) or not isinstance(table.get("spec"), dict):
            raise
        spec = with_options(table["spec"])
        if is_newer(table.get("format", 1), spec):
            raise NewerRecord from None
        record = msgspec.convert({**table, "spec": spec}, RunRecord)
    if record.format > FORMAT:
        raise NewerRecord
    if name and not (
        record.run_id == name and name in (record.spec.run_id, table and written_id(table["spec"], RunSpec))
    ):
        raise ValueError(f"it describes run {record.spec.run_id}, not {name}")
    return record


def is_newer(format_: object, spec: dict[str, Any]) -> bool:
    """Return whether a record of this format and plain specification was written by a newer version."""
    parts = [(RunSpec, spec), *((kind, spec.get(name)) for name, kind in (("recipe", Recipe), ("scoring", Scoring)))]
    unknown = any(isinstance(part, dict) and part.keys() - _KNOWN_FIELDS[kind] for kind, part in parts)
    return unknown or (isinstance(format_, int) and format_ > FORMAT)


def content(path: Path, most_bytes: int | None = None) -> bytes:
    """Read a whole file. Raises ValueError for a pipe, which would block, and for a file of more than `most_bytes`.

    By default these are `MOST_BYTES`.
    """
    most = MOST_BYTES if most_bytes is None else most_bytes
    with open(path, "rb", buffering=0, opener=_open_nonblocking) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            raise ValueError(f"not a file of at most {most} bytes")
        return file.read()


def open_file(path: str, flags: int) -> int:
    """Open a file for Python's `open`. Raises OSError for a pipe or a device, which would block or have no end."""
    handle = _open_nonblocking(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a file", path)
    return handle


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def _age(path: Path) -> float:
    try:
        return time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _current_id(store: Store, name: str) -> str:
    """Return the run id that this version gives to the record `name`; "" if it cannot be read."""
    try:
        return decoded(store.content(name), name).spec.run_id
    except (OSError, ValueError, RecursionError):
        return ""


def find(results: Path, run_id: str) -> list[tuple[Store, RunRecord]]:
    """Return the record whose id begins with `run_id`, with its store, from every study below `results` that has it.

    `results` may also be a packed file. Raises RequestError unless the records found are of exactly one run.
    """
    if packed_file(results) == results:
        return select([Store(results)], run_id, str(results))
    check_folder(results)
    found = [results / name for name in os.listdir(results)] if results.exists() else []
    folders = {path.with_suffix("") if path.suffix == SUFFIX else path for path in found}
    stores = [Store(path) for path in sorted(folders) if path.is_dir() or packed_file(path)]
    return select(stores, run_id, f"{results}/*/runs")


def select(stores: Iterable[Store], run_id: str, where: str) -> list[tuple[Store, RunRecord]]:
    """Return the record whose id begins with `run_id`, with its store, from every store that has it.

    The id is the name of the file, or else the id that this version gives to the run. Raises RequestError, which names
    `where`, unless the records found are of exactly one run.
    """
    if not run_id.isalnum():
        raise RequestError(f"{run_id!r} is not a run id (16 hex digits, or the first of them)")
    every = [(store, name) for store in stores for name in sorted(store.names())]
    found = [(store, name) for store, name in every if name.startswith(run_id)]
    found = found or [(store, name) for store, name in every if _current_id(store, name).startswith(run_id)]
    ids = list(dict.fromkeys(name for _, name in found))
    if len(ids) != 1:
        named = ", ".join(ids[:5]) or "none"
        raise RequestError(f"run {run_id!r}: {len(ids)} records in {where} begin with it ({named})")
    read = [(store, record) for store, name in found if (record := store.read(name))]
    if not read:
        raise RequestError(f"{found[0][0].path(ids[0])} cannot be read")
    return read
