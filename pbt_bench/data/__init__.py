"""Datasets by name -> image tensors; splits, scoring samples, batches and augmentation on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pbt_bench import registry

if TYPE_CHECKING:
    from pbt_bench.data.images import Dataset


@dataclass(frozen=True)
class Source:
    """A registered dataset: `load(folder)` reads (or downloads) it."""

    name: str
    load: Callable[[Path], Dataset]
    cite: str
    summary: str


_SOURCES: registry.Registry[Source] = registry.Registry("dataset")


def dataset(*, cite: str) -> Callable[[Callable[[Path], Dataset]], Callable[[Path], Dataset]]:
    """Register a loader under its own name; it is given the data folder and returns a `Dataset`."""

    def register(load: Callable[[Path], Dataset]) -> Callable[[Path], Dataset]:
        summary = (load.__doc__ or "").strip().split("\n", 1)[0]
        _SOURCES.add(load.__name__, Source(load.__name__, load, cite, summary), registry.origin(load))
        return load

    return register


@cache
def datasets() -> registry.Registry[Source]:
    """All datasets: those of `pbt_bench/data/sources/`, then those of the folders in PBT_BENCH_DATASETS."""
    for folder in (Path(__file__).parent / "sources", *registry.extra_folders("PBT_BENCH_DATASETS")):
        registry.load_folder(folder, "pbt_bench_datasets")
    return _SOURCES
