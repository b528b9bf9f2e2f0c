"""Published archives: what is there is read, what is not is downloaded, and what cannot be had is one clear line."""

from __future__ import annotations

import fcntl
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pbt_bench.errors import RequestError

T = TypeVar("T")
PATIENCE = 30.0  # seconds without an answer after which a server counts as unreachable


@dataclass(frozen=True)
class Archive:
    """What a dataset is read from: `files` (path in the data folder, MD5 or None); `get` is put in `into` by hand."""

    name: str
    files: Sequence[tuple[str, str | None]]
    get: str
    page: str
    into: str = "."

    def read(self, folder: Path, read: Callable[[bool], T]) -> T:
        """`read(False)`, which must not download; where that fails `read(True)`, which may, one process at a time.

        Raises RequestError, one line: which file is missing or damaged, where, why no download helped, how to get it.
        """
        with suppress(Exception), _quiet():
            return read(False)
        try:
            with _alone(folder, self.name), _quiet():
                return read(True)
        except Exception as error:  # URLError, BadZipFile, UnpicklingError, AssertionError, ...: torchvision's are many
            why = " ".join(str(error).split()) or type(error).__name__
            raise RequestError(f"{self.name}: {self._fault(folder, why)}; {self._remedy(folder)}") from error

    def _fault(self, folder: Path, why: str) -> str:
        from torchvision.datasets.utils import check_integrity

        for file, md5 in self.files:
            path = folder / file
            if not path.is_file():
                return f"{path} is missing and could not be downloaded ({why})"
            with suppress(OSError):
                if check_integrity(str(path), md5):
                    continue
            return f"{path} is damaged (not its published MD5) and could not be downloaded ({why})"
        places = sorted({str((folder / file).parent) for file, _ in self.files} or {str(folder)})
        return f"the files in {', '.join(places)} are damaged ({why}): remove them"

    def _remedy(self, folder: Path) -> str:
        return f"put {self.get} from {self.page} into {folder / self.into}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Standard output is the user's; old pickles make numpy warn; a silent server must not hold up a study."""
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
    """Workers that start together download once: the others wait, and find it there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("w") as file:
        with suppress(OSError):  # some shared file systems know no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
