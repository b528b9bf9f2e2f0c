"""Datasets by name -> image tensors; splits, scoring samples, batches and augmentation on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pbt_bench import registry
from pbt_bench.errors import RequestError

if TYPE_CHECKING:
    from pbt_bench.data.images import Dataset

Reader = TypeVar("Reader", bound=Callable[[Path], Any])


@dataclass(frozen=True)
class Source:
    """A registered dataset: `read(folder)` reads (or downloads) it; what it returns may be anything `load` takes."""

    name: str
    read: Callable[[Path], Any]
    cite: str
    summary: str
    origin: str

    def load(self, folder: Path) -> Dataset:
        """The dataset, read from `folder`. Raises RequestError, one line, where it cannot be had or used.

        `read` may return a `Dataset` (as `from_arrays` makes), four arrays (training images and labels, test images
        and labels), or a pair (training, test) of torchvision-style datasets: sequences of (image, label).
        """
        from pbt_bench.data.images import as_dataset

        try:
            return as_dataset(self.read(folder))
        except RequestError as error:
            if str(error).startswith(f"{self.name}: "):  # it says all
                raise
            raise RequestError(f"{self.name}: {error} ({self.origin})") from error
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise RequestError(f"{self.name}: cannot be loaded: {text} ({self.origin})") from error


_SOURCES: registry.Registry[Source] = registry.Registry("dataset")


def dataset(*, cite: str, name: str = "") -> Callable[[Reader], Reader]:
    """Register a function as a dataset, under `name` or its own; it is given the data folder; see `Source.load`."""

    def register(read: Reader) -> Reader:
        summary = (read.__doc__ or "").strip().split("\n", 1)[0]
        source = Source(name or read.__name__, read, cite, summary, registry.origin(read))
        _SOURCES.add(source.name, source, source.origin)
        return read

    return register


@cache
def datasets() -> registry.Registry[Source]:
    """All datasets: those of `pbt_bench/data/sources/`, then those of the folders in PBT_BENCH_DATASETS."""
    for folder in (Path(__file__).parent / "sources", *registry.extra_folders("PBT_BENCH_DATASETS")):
        registry.load_folder(folder, "pbt_bench_datasets")
    return _SOURCES


def load(name: str, folder: Path) -> Dataset:
    """The dataset called `name`, from `folder`. Raises RequestError where it is unknown, missing or damaged."""
    return datasets()[name].load(folder)
