"""Tests of packing: every run in one element, groups together, no idle jobs, arrays within the limit of the cluster."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt_bench.running.slurm.pack import array_size, chunk, pack, share
from pbt_bench.running.slurm.profile import Profile
from pbt_bench.spec import RunSpec


def runs(groups: int, each: int) -> list[RunSpec]:
    """Return `each` runs of every group, interleaved."""
    return [
        RunSpec(dataset="digits", model="vgg8", method="snip", sparsity=index / 1000, seed=group)
        for index in range(each)
        for group in range(groups)
    ]


@given(st.integers(1, 9), st.integers(1, 20), st.integers(1, 12), st.none() | st.integers(1, 9), st.integers(1, 4))
def test_every_run_once_and_as_few_elements_as_allowed(
    groups: int, each: int, most: int, parallel: int | None, workers: int
) -> None:
    specs = runs(groups, each)
    profile = Profile(runs_per_job=most, array_parallelism=parallel, side_by_side=workers)
    elements = pack(specs, profile)
    assert sorted(spec.run_id for spec in chain(*elements)) == sorted(spec.run_id for spec in specs)
    sizes = [len(element) for element in elements]
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    if parallel is not None and most >= workers:
        assert len(elements) >= min(parallel, len(specs) // max(workers, -(-len(specs) // parallel)))
    splits = sum(len({spec.seed for spec in element}) for element in elements)
    assert splits <= len(elements) + groups - 1, "a group is cut only where an element ends"


def test_a_study_smaller_than_one_job_is_spread_over_the_jobs_that_may_run() -> None:
    specs = runs(2, 6)
    assert [len(e) for e in pack(specs, Profile(runs_per_job=100))] == [12]
    assert [len(e) for e in pack(specs, Profile(runs_per_job=100, array_parallelism=4))] == [3] * 4
    assert [len(e) for e in pack(specs, Profile(runs_per_job=100, array_parallelism=9, side_by_side=4))] == [4] * 3
    assert pack([], Profile()) == []


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ("MaxArraySize            = 1001", 1001),
        ("MaxArraySize = 2001\nSchedulerParameters = bf_interval=2,max_array_tasks=50", 50),
        ("AccountingStorageType = none", 1001),
    ],
)
def test_arrays_respect_the_cluster(fake: Callable[[str, str], Path], config: str, size: int) -> None:
    fake("scontrol", f"#!/bin/sh\necho '{config}'\n")
    assert array_size() == size
    elements = pack(runs(1, 103), Profile(runs_per_job=1))
    arrays = chunk(elements, size)
    assert max(map(len, arrays)) <= size
    assert max(map(len, arrays)) - min(map(len, arrays)) <= 1
    assert list(chain(*arrays)) == elements


@given(st.integers(1, 40), st.integers(1, 40))
def test_arrays_that_may_run_at_a_time_use_all_of_the_jobs_at_a_time_and_no_more(parallelism: int, arrays: int) -> None:
    shares = [share(parallelism, arrays, array) for array in range(arrays)]
    first = [jobs for jobs, before in shares if before is None]
    assert sum(first) == parallelism
    assert len(first) == min(parallelism, arrays)
    later = [(jobs, before) for jobs, before in shares if before is not None]
    assert [before for _, before in later] == list(range(len(later))), "each waits for an array of its own"
    assert all(jobs == 1 for jobs, _ in later)
    assert share(None, arrays, 0)[1] is None
