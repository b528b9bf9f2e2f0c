"""Which runs go into the same job, and which jobs into the same array."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import TypeVar

from pbt_bench.running.slurm.command import call
from pbt_bench.running.slurm.profile import Profile
from pbt_bench.spec import RunSpec

DEFAULT_ARRAY_SIZE = 1001  # Slurm's own default of MaxArraySize

Element = Sequence[RunSpec]  # what one array element, a job of its own, has to do
_Item = TypeVar("_Item")


def pack(specs: Sequence[RunSpec], profile: Profile) -> list[Element]:
    """`specs` in as few elements as the profile allows; runs of a group side by side, they share data and statistics.

    An element gets `runs_per_job` runs at most, fewer where otherwise less than `array_parallelism` jobs would have
    work, but never fewer than it can run at a time.
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
    return _cut(ordered, size)


def chunk(elements: Sequence[Element], most: int) -> list[Sequence[Element]]:
    """Arrays of at most `most` elements, all of about the same size, for they get equal shares of the cluster."""
    return _cut(elements, most)


def _cut(items: Sequence[_Item], most: int) -> list[Sequence[_Item]]:
    """As few parts of at most `most` items as there can be, equal to within one item."""
    count = -(-len(items) // most)
    bounds = [index * len(items) // count for index in range(count + 1)]
    return [items[start:end] for start, end in pairwise(bounds)]


def share(parallelism: int | None, arrays: int, array: int) -> tuple[int, int | None]:
    """How many jobs of `array` may run at a time, and the array that has to be over before it may begin, if any.

    The shares of all arrays that may run at a time add up to `parallelism`.
    """
    if parallelism is None:
        return 1_000_000, None
    if array >= parallelism:
        return 1, array - parallelism
    return parallelism // arrays + (array < parallelism % arrays), None


def array_size() -> int:
    """How many elements an array of this cluster may have (MaxArraySize, max_array_tasks). Raises RequestError."""
    config = call("scontrol", "show", "config")
    limits = [int(number) for number in re.findall(r"(?:MaxArraySize *= *|max_array_tasks=)(\d+)", config)]
    return max(1, min(limits, default=DEFAULT_ARRAY_SIZE))
