"""Published archives: read the files in the data folder, download missing ones, and report failures in one line."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import socket
import sys
import tarfile
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pbt_bench.errors import RequestError

T = TypeVar("T")
PATIENCE = 30.0  # seconds without an answer after which a server counts as unreachable
BYTE_LIMIT = 2**28  # limit for a file in an archive; the largest, "train" of CIFAR-100, has 155 million bytes
_DIFFERS = "is damaged or another file"


@dataclass(frozen=True)
class Archive:
    """The files of a dataset and their source.

    `files` are pairs of a path in the data folder and its MD5 or None. For a manual download, the user puts `get` from
    `page` into `into`. `packed` are the archives (.gz or tar) that hold the files. Re-packed archives are accepted,
    because the checksums are those of the unpacked files.
    """

    name: str
    files: Sequence[tuple[str, str | None]]
    get: str
    page: str
    into: str = "."
    packed: Sequence[str] = ()

    def read(self, folder: Path, read: Callable[[bool], T]) -> T:
        """Return `read(False)`, which must not download; if that fails, `read(True)`, which may.

        One process at a time downloads. Raises RequestError, one line: the file that is missing or damaged, its path,
        the reason why the download failed, and how to get the file.
        """
        with suppress(Exception), _quiet():
            return read(False)
        wrong = ""
        try:
            with _alone(folder, self.name), _quiet():
                wrong = self._unpack(folder)
                return read(True)
        except Exception as error:  # torchvision's: URLError, BadZipFile, UnpicklingError, AssertionError, ...
            why = " ".join(str(error).split()) or type(error).__name__
            remedy = f"put {self.get} from {self.page} into {folder / self.into}"
            raise RequestError(f"{self.name}: {self._fault(folder, why, wrong)}; {remedy}") from error

    def intact(self, folder: Path) -> bool:
        """Return whether every file with a published MD5 exists and has it."""
        return not self._wanted(folder)

    def _wanted(self, folder: Path) -> dict[str, tuple[Path, str]]:
        """Return name -> (path, MD5) of the files that are missing or damaged."""
        return {path.name: (path, md5) for file, md5 in self.files if md5 and _md5(path := folder / file) != md5}

    def _unpack(self, folder: Path) -> str:
        """Unpack missing and damaged files from the archives, each only if its bytes have the published MD5.

        Return the first fault of the archives, or "".
        """
        wrong = ""
        wanted = self._wanted(folder) if self.packed else {}
        for archive in (folder / packed for packed in self.packed if (folder / packed).is_file()):
            try:
                for name, data in _members(archive, wanted):
                    path, md5 = wanted[name]
                    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
                    if found == md5:
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(data)
                    else:
                        wrong = wrong or f"{archive} {_DIFFERS} ({name}: MD5 {found}, published {md5})"
            except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
                wrong = wrong or f"{archive} cannot be unpacked ({error})"
        return wrong

    def _fault(self, folder: Path, why: str, wrong: str) -> str:
        for file, md5 in self.files:
            path = folder / file
            if not path.is_file():
                return f"{wrong or f'{path} is missing'} and could not be downloaded ({why})"
            if md5 and (found := _md5(path)) != md5:
                return f"{path} {_DIFFERS} (MD5 {found}, published {md5}) and could not be downloaded ({why})"
        folders = sorted({str((folder / file).parent) for file, _ in self.files} or {str(folder)})
        return f"the files in {', '.join(folders)} are damaged ({why}): remove them"


def _md5(path: Path) -> str:
    """Return the MD5 of a file, or "" if it cannot be read."""
    with suppress(OSError), path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return ""


def _members(archive: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the files called `names` in a .gz or in a tar with any compression and folders."""
    if not archive.name.endswith(".tar.gz"):
        if archive.stem in names:
            with gzip.open(archive) as file:
                yield archive.stem, file.read(BYTE_LIMIT)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            if name in names and member.isfile() and member.size <= BYTE_LIMIT and (content := tar.extractfile(member)):
                yield name, content.read()


@contextmanager
def _quiet() -> Iterator[None]:
    """Redirect standard output to stderr, suppress warnings (numpy's about old pickles), and limit network waits."""
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        socket.setdefaulttimeout(patience)


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Hold a lock file, so that of several workers one downloads, and the others wait and then read its files."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("w") as file:
        with suppress(OSError):  # some shared file systems do not support locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
