"""The result store: one folder per study and one JSON file per finished run. It is the only state between calls.

Every file is written under another name and renamed, so that no reader sees an incomplete record, also on NFS.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
import tempfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from time import time

import msgspec
import numpy as np
from numpy.typing import NDArray

from pbt_bench.errors import RequestError, StoreError
from pbt_bench.identity import with_options
from pbt_bench.running.record import Layer, RunRecord, digest

FOREIGN_SECONDS = 3600.0  # age at which another machine's incomplete file counts as abandoned
MOST_BYTES = 10**9  # size of the largest file that is read
HOST = socket.gethostname().split(".")[0]
_RECORD_DECODER = msgspec.json.Decoder(RunRecord)


class Store:
    """The records of one study, in `<folder>/runs/<run_id>.json`, and masks, in `<folder>/masks/<run_id>.bits`.

    Unfinished runs may have `checkpoints/<run_id>.pt` and `claims/<run_id>.N`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.runs = self.folder / "runs"
        self.masks = self.folder / "masks"

    def prepare(self) -> None:
        """Create the folders and remove incomplete files. Raises RequestError if the folder is not writable."""
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

    def checkpoint(self, run_id: str) -> Path:
        """Return the path of the saved state of `run_id`, which need not exist."""
        return self.folder / "checkpoints" / f"{run_id}.pt"

    def finished(self, run_id: str, retry_failed: bool = False) -> RunRecord | None:
        """Return the record of `run_id`; None if the run has to be executed."""
        record = self.read(run_id) if self.path(run_id).exists() else None
        return None if record is None or (retry_failed and record.status == "failed") else record

    def write(self, record: RunRecord, masks: Mapping[str, NDArray[np.bool_]] | None = None) -> None:
        """Write the masks, if given, and then `record`, each completely or not at all.

        Remove the checkpoint unless the run failed. Raises StoreError if the folder cannot be written.
        """
        try:
            if masks is not None:
                packed = np.packbits(np.concatenate([mask.ravel() for mask in masks.values()]))
                self.put(self.masks / f"{record.run_id}.bits", zlib.compress(packed.tobytes(), 6))
            self.put(self.path(record.run_id), record.to_json())
            if record.status != "failed":  # a retry continues from it
                self.checkpoint(record.run_id).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{self.unwritable(error)}; finished runs are kept") from None

    def read_masks(self, record: RunRecord) -> dict[str, NDArray[np.bool_]] | None:
        """Return the masks of a run by layer, True = kept; None if they are missing or have another digest."""
        found = record.pruning
        return None if found is None else self.masks_of(record.run_id, found.layers, found.mask_digest)

    def masks_of(self, run_id: str, layers: Sequence[Layer], mask_digest: str) -> dict[str, NDArray[np.bool_]] | None:
        """Return the masks as `read_masks` does, given the parts of the record that describe them."""
        try:
            stored = content(self.masks / f"{run_id}.bits")
            prunable = sum(layer.prunable for layer in layers)
            packed = zlib.decompressobj().decompress(stored, prunable // 8 + 1)
            bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8)).astype(bool)[:prunable]
            parts = np.split(bits, np.cumsum([layer.prunable for layer in layers])[:-1])
            masks = {layer.name: part.reshape(layer.shape) for layer, part in zip(layers, parts, strict=True)}
        except (OSError, zlib.error, ValueError):
            return None
        return masks if digest(masks) == mask_digest else None

    @staticmethod
    def put(path: Path, content: bytes) -> None:
        """Write a file under a temporary name and rename it; create its folder, but not the parent of the folder."""
        path.parent.mkdir(exist_ok=True)
        part = path.with_name(f".{path.stem}.{HOST}.{os.getpid()}.tmp")
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
            host, pid = part.name.split(".")[-3:-1]
            ours = host == HOST
            if (ours and not Path(f"/proc/{pid}").exists()) or (not ours and _age(part) > FOREIGN_SECONDS):
                part.unlink(missing_ok=True)
        for left in (*self.folder.glob("checkpoints/*.pt"), *self.folder.glob("claims/*.*")):
            if self.finished(left.stem, retry_failed=True):
                left.unlink(missing_ok=True)

    def records(self, ids: Collection[str] | None = None) -> list[RunRecord]:
        """Return the readable records of all runs, or of `ids`, by run id; name unreadable ones on stderr."""
        present = sorted(path.stem for path in self.runs.glob("*.json")) if self.runs.is_dir() else []
        wanted = set(present if ids is None else ids)
        found = (self.read(run_id) for run_id in present if run_id in wanted)
        return [record for record in found if record is not None]

    def read(self, run_id: str) -> RunRecord | None:
        """Read the record of `run_id`; return None, with a warning on stderr, if its file is damaged."""
        path = self.path(run_id)
        try:
            record = decoded(content(path))
            if record.run_id != run_id or record.spec.run_id != run_id:
                raise ValueError(f"it describes run {record.spec.run_id}, not {run_id}")
            return record
        except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            print(f"warning: {path} is not a record ({error}); ignored, its run counts as missing", file=sys.stderr)
            return None


def decoded(text: bytes) -> RunRecord:
    """Decode a record, also of version 0.1. Raises ValueError if it is not a record."""
    try:
        return _RECORD_DECODER.decode(text)
    except msgspec.ValidationError:
        table = msgspec.json.decode(text)
        if isinstance(table, dict) and isinstance(table.get("spec"), dict):
            table["spec"] = with_options(table["spec"])
        return msgspec.convert(table, RunRecord)


def content(path: Path) -> bytes:
    """Read a whole file. Raises ValueError for a pipe, which would block, and for a file above `MOST_BYTES`."""
    with open(path, "rb", buffering=0, opener=_open_nonblocking) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
            raise ValueError(f"not a file of at most {MOST_BYTES} bytes")
        return file.read()


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _age(path: Path) -> float:
    try:
        return time() - path.stat().st_mtime
    except OSError:
        return 0.0


def find(results: Path, run_id: str) -> RunRecord:
    """Return the record whose id begins with `run_id`, of any study below `results`.

    Raises RequestError unless there is exactly one.
    """
    if not run_id.isalnum():
        raise RequestError(f"{run_id!r} is not a run id (16 hex digits, or the first of them)")
    paths = sorted(results.glob(f"*/runs/{run_id}*.json"))
    if len(paths) != 1:
        found = ", ".join(path.stem for path in paths[:5]) or "none"
        raise RequestError(f"run {run_id!r}: {len(paths)} records in {results}/*/runs begin with it ({found})")
    record = Store(paths[0].parents[1]).read(paths[0].stem)
    if record is None:
        raise RequestError(f"{paths[0]} cannot be read")
    return record
