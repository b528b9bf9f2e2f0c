"""Records and masks of a study in one compressed file, `NAME.pack`: a zip archive with deterministic bytes.

Its members are `runs/<run_id>.json` and `masks/<run_id>.bits`, the files of the results folder, sorted by name.
"""

from __future__ import annotations

import os
import secrets
import zipfile
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from pbt_bench.errors import RequestError

SUFFIX = ".pack"
_ZIP_LEVEL = 6  # of zlib; 9 takes three times as long and saves 2 % of the bytes
_DATE = (1980, 1, 1, 0, 0, 0)  # of every member, so that equal records give equal bytes


def packed_file(folder: Path) -> Path | None:
    """Return the packed file that `folder` is, or that is beside it with its name; None if there is none."""
    beside = folder.with_name(f"{folder.name}{SUFFIX}") if folder.name else folder
    return next((path for path in (folder, beside) if path.suffix == SUFFIX and os.path.isfile(path)), None)


class Packed:
    """A packed file, opened for reading. Raises RequestError if it is not one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = path.stat().st_mtime_ns, path.stat().st_size
        try:
            names = self._archive.namelist()
        except (OSError, zipfile.BadZipFile) as error:
            raise RequestError(f"{path} is not a packed study: {error}") from None
        self.names = {
            kind: {Path(each).stem for each in names if each.startswith(kind)} for kind in ("runs/", "masks/")
        }

    @property
    def _archive(self) -> zipfile.ZipFile:
        return _opened(self.path, self._state, os.getpid())  # processes do not share the position in the file

    def state(self, name: str) -> tuple[int, int, int]:
        """Return numbers that change with the content of a member."""
        found = self._archive.getinfo(name)
        return found.file_size, found.CRC, 0

    def content(self, name: str, most_bytes: int) -> bytes:
        """Return a member. Raises FileNotFoundError, and ValueError for a damaged one or one above `most_bytes`."""
        try:
            if self._archive.getinfo(name).file_size > most_bytes:
                raise ValueError(f"not a file of at most {most_bytes} bytes")
            return self._archive.read(name)
        except KeyError:
            raise FileNotFoundError(f"{name} is not in {self.path}") from None
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
            raise ValueError(str(error)) from None


@cache
def _opened(path: Path, state: tuple[int, int], process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def write(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write `members`, (name, content) sorted by name, completely or not at all. Masks are compressed already."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # two hosts may have one process id
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=_ZIP_LEVEL) as archive:
            for name, content in members:
                member = zipfile.ZipInfo(name, _DATE)
                member.create_system, member.external_attr = 3, 0o644 << 16  # as on Unix, on every system
                member.compress_type = zipfile.ZIP_STORED if name.startswith("masks/") else zipfile.ZIP_DEFLATED
                archive.writestr(member, content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
