"""Parallel processes on one machine: forks, which start with the parent's data, where forks are safe."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FORK: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else None)


def processes() -> int:
    """Return the number of processes to use: the available processors, or 1 where forks are not safe."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


@contextmanager
def without_fork_warning() -> Iterator[None]:
    """Suppress Python's warning that a fork lacks the threads of its parent; the forked code uses none of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
