"""Distribute runs over jobs, and jobs over arrays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import TypeVar

from pbt_bench.running.slurm.command import call
from pbt_bench.running.slurm.profile import Profile
from pbt_bench.spec import RunSpec

DEFAULT_ARRAY_SIZE = 1001  # Slurm's own default of MaxArraySize

Element = Sequence[RunSpec]  # the runs of one array element, which is one job
_Item = TypeVar("_Item")


def pack(specs: Sequence[RunSpec], profile: Profile) -> list[Element]:
    """Divide `specs` among as few array elements as the profile allows.

    Runs of a group stay together, because they share data and statistics. An element gets at most `runs_per_job` runs;
    fewer if otherwise fewer than `array_parallelism` jobs would have runs, but not fewer than it executes at a time.
    """
    if not specs:
        return []
    groups: dict[tuple[object, ...], list[RunSpec]] = {}
    for spec in specs:
        groups.setdefault(spec.group, []).append(spec)
    ordered = list(chain.from_iterable(groups.values()))
    size = profile.runs_per_job
    if profile.array_parallelism is not None:
        size = min(size, max(-(-len(ordered) // profile.array_parallelism), profile.workers))
    return chunk(ordered, size)


def chunk(items: Sequence[_Item], most: int) -> list[Sequence[_Item]]:
    """Split `items` into as few parts of at most `most` items as possible; their sizes differ by at most one.

    Arrays of similar size suit the equal shares of jobs that `share` gives them.
    """
    count = -(-len(items) // most)
    bounds = [index * len(items) // count for index in range(count + 1)]
    return [items[start:end] for start, end in pairwise(bounds)]


def share(parallelism: int | None, arrays: int, array: int) -> tuple[int, int | None]:
    """Return how many jobs of `array` may run at a time, and the array that must end before it starts, or None.

    The shares of all arrays that run at the same time add up to `parallelism`.
    """
    if parallelism is None:
        return 1_000_000, None
    if array >= parallelism:
        return 1, array - parallelism
    return parallelism // arrays + (array < parallelism % arrays), None


def array_size(clusters: str | None = None) -> int:
    """Return the largest array size of a cluster (MaxArraySize, max_array_tasks). Raises SlurmError."""
    config = call("scontrol", "show", "config", clusters=clusters)
    limits = [int(number) for number in re.findall(r"(?:MaxArraySize *= *|max_array_tasks=)(\d+)", config)]
    return max(1, min(limits, default=DEFAULT_ARRAY_SIZE))
