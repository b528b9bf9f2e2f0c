"""Find the studies, cluster profiles, claims, published numbers and methods that the project ships.

They are folders at the top of a clone, and folders of the package in an installed wheel (`setup.py` maps them). A file
in the folder of the same name in the working directory, as in a clone, is used instead of the shipped file.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import NamedTuple

from pbt_bench.errors import RequestError, unknown


class Kind(NamedTuple):
    """A kind of shipped file, whose name is the file's name without the suffix."""

    noun: str
    folder: str  # in a clone
    suffix: str = ".toml"


STUDIES = Kind("study", "grids")
PROFILES = Kind("cluster profile", "slurm")
CLAIMS = Kind("claim", "claims")
PUBLISHED_NUMBERS = Kind("published table", "results/published", ".csv")
METHODS = Kind("method", "methods", ".py")


def folder(kind: Kind) -> Path:
    """Return the folder of the shipped files of a kind, which may not exist."""
    package = Path(__file__).parent
    installed = (package / METHODS.folder).is_dir()
    return package / Path(kind.folder).name if installed else package.parent / kind.folder


def files(kind: Kind, *own: Path) -> dict[str, Path]:
    """Return the files of a kind by name, sorted: those of `own` first, then the working directory's, then shipped."""
    found: dict[str, Path] = {}
    for each in (folder(kind), Path(kind.folder), *own):
        found |= {path.stem: path for path in each.glob(f"*{kind.suffix}")}
    return dict(sorted(found.items()))


def find(kind: Kind, given: str) -> Path:
    """Return the path `given` if it is one, else the file of this name.

    Raises RequestError for an unknown name, and for a path without a file whose name is one of the files.
    """
    names, path = files(kind), Path(given)
    if os.path.isfile(given):
        return path
    if given in names:
        return names[given]
    if path.suffix == kind.suffix and path.stem in names and not os.path.lexists(given):
        raise RequestError(f"{given}: no such file; did you mean the {kind.noun} {path.stem!r}?")
    if path.suffix == kind.suffix or len(path.parts) > 1:
        return path  # whose reader says why it cannot be read
    raise unknown(kind.noun, given, names)


def head_comment(path: Path) -> list[str]:
    """Return the lines of the comment at the head of a file, without the number signs."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]
