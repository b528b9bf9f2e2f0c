"""Which runs go into the same job, and which jobs into the same array."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, pairwise

from pbt_bench.running.slurm.command import call
from pbt_bench.running.slurm.profile import Profile
from pbt_bench.spec import RunSpec

DEFAULT_ARRAY_SIZE = 1001  # Slurm's own default of MaxArraySize

Element = Sequence[RunSpec]  # what one array element, a job of its own, has to do


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
    count = -(-len(ordered) // size)
    bounds = [index * len(ordered) // count for index in range(count + 1)]  # equal to within one run
    return [ordered[start:end] for start, end in pairwise(bounds)]


def chunk(elements: Sequence[Element], most: int) -> list[Sequence[Element]]:
    """Arrays of at most `most` elements."""
    return [elements[start : start + most] for start in range(0, len(elements), most)]


def array_size() -> int:
    """How many elements an array of this cluster may have (MaxArraySize, max_array_tasks). Raises RequestError."""
    config = call("scontrol", "show", "config")
    limits = [int(number) for number in re.findall(r"(?:MaxArraySize *= *|max_array_tasks=)(\d+)", config)]
    return max(1, min(limits, default=DEFAULT_ARRAY_SIZE))
