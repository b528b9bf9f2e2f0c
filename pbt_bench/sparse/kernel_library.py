"""Load the compiled kernels, without importing torch."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


@dataclass(frozen=True)
class Kernels:
    """The compiled library, and the instruction set of this processor that is used."""

    library: ctypes.CDLL
    set: str


@cache
def loaded() -> Kernels | None:
    """Return the kernels if they were compiled for this kind of processor, else None."""
    for suffix in reversed(EXTENSION_SUFFIXES):  # `.so` first: setup.py of 0.1 put the version of Python before it
        path = Path(__file__).parent / "kernels" / f"_kernels{suffix}"
        with suppress(OSError):
            library = ctypes.CDLL(str(path))
            library.best_set.restype = ctypes.c_char_p
            return Kernels(library, library.best_set().decode())
    return None
