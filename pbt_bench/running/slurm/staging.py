"""Copies of datasets on the disk of a node, made once per node by the first job that needs them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from pbt_bench.data import datasets
from pbt_bench.errors import RequestError
from pbt_bench.running.store import HOST
from pbt_bench.spec import RunSpec


def expanded(name: str, text: str) -> Path:
    """Expand the environment variables in the path `text`. Raises RequestError, with `name`, for an unset variable."""
    for braced, plain in re.findall(r"\$(?:\{(\w+)\}|(\w+))", text):
        if not os.environ.get(variable := braced or plain):
            raise RequestError(f"{name} = {text!r}: the variable {variable} is not set on {HOST}")
    return Path(os.path.expandvars(text)).absolute()


def files_read(specs: Iterable[RunSpec], data: Path) -> set[str]:
    """Return the files and folders in `data` that the datasets and initial weights of `specs` are read from."""
    found = set()
    for spec in specs:
        declared = datasets()[spec.dataset].files
        found |= set(os.listdir(data) if declared is None and data.is_dir() else declared or ())
        kind, _, file = spec.init.partition(" ")
        if kind == "pretrained" and file:
            found.add(Path(file).parts[0])
    return found


def staged(data: Path, names: Collection[str], disk: Path) -> Path:
    """Copy the files and folders `names` of `data` to `disk`, and return a folder with these names.

    A job that needs a name for the first time copies it; jobs of the same node that need it too wait. Complete copies
    are used again until the original changes. If copying fails, print the reason and return `data`.
    """
    found = {name: (data / name).resolve() for name in sorted(names) if (data / name).exists()}
    if not found:
        return data
    try:
        folder = disk / f"pbt-bench-{os.getuid()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user")
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the system releases it if this process is killed
            copies = {name: _copy(original, folder) for name, original in found.items()}
            links = folder / f"data-{_digest(copies)}"
            links.mkdir(exist_ok=True)
            for name, copy in copies.items():
                if not (links / name).exists():
                    (links / name).symlink_to(copy)
    except (OSError, shutil.Error) as error:
        print(f"warning: no copy of the datasets in {disk} ({error}); they are read from {data}", file=sys.stderr)
        return data
    return links


def _copy(original: Path, folder: Path) -> Path:
    """Return the copy of `original` in `folder`; it gets its name when it is complete."""
    copy = folder / f"{original.name}-{_digest((str(original), original.stat().st_mtime_ns))}"
    if copy.exists():
        return copy
    incomplete = folder / ".incomplete"
    if incomplete.is_dir():
        shutil.rmtree(incomplete)
    if original.is_dir():
        shutil.copytree(original, incomplete)
    else:
        incomplete.unlink(missing_ok=True)
        shutil.copy2(original, incomplete)
    incomplete.rename(copy)
    print(f"copied {original} to {copy}", file=sys.stderr, flush=True)
    return copy


def _digest(values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]
