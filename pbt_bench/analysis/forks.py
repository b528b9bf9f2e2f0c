"""Several processes of this machine: forks, which have all that is worked on at once, where forks are safe."""

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
    """How many work at a time: the processors that we may use; one where forks are not safe."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


@contextmanager
def without_fork_warning() -> Iterator[None]:
    """Python warns of threads that a fork will not have; nothing here needs them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
