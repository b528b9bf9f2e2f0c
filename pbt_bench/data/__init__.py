"""Datasets: their registry, and image tensors that are split, sampled, batched and augmented on the device."""

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
    """A registered dataset. `read(folder)` reads or downloads it and returns one of the types that `load` accepts."""

    name: str
    read: Callable[[Path], Any]
    cite: str
    summary: str
    origin: str
    revision: int = 1  # raised when its arrays change on purpose
    test_images: int | None = None  # size of the test set, where it is always the same
    files: tuple[str, ...] | None = None  # the entries of the data folder that it is read from; None: unknown

    def load(self, folder: Path) -> Dataset:
        """Read the dataset from `folder`. Raises RequestError, one line, if it cannot be read, downloaded or used.

        `read` may return a `Dataset` (see `from_arrays`), four arrays (training images and labels, test images
        and labels), or a pair (training, test) of torchvision-style datasets: sequences of (image, label).
        """
        from pbt_bench.data.images import as_dataset

        try:
            return as_dataset(self.read(folder))
        except RequestError as error:
            if str(error).startswith(f"{self.name}: "):  # the message names the dataset already
                raise
            raise RequestError(f"{self.name}: {error} ({self.origin})") from error
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise RequestError(f"{self.name}: cannot be loaded: {text} ({self.origin})") from error


_SOURCES: registry.Registry[Source] = registry.Registry("dataset")


def dataset(
    *, cite: str, name: str = "", revision: int = 1, test_images: int | None = None,
    files: tuple[str, ...] | None = None,
) -> Callable[[Reader], Reader]:  # fmt: skip
    """Register a function of the data folder as a dataset, under `name` or the function's name; see `Source.load`.

    A report states what one of `test_images` is worth, if the recorded accuracies are multiples of it. `files` are the
    names in the data folder that it reads, for `stage` of a cluster profile; without them all of the folder is staged.
    """

    def register(read: Reader) -> Reader:
        summary = (read.__doc__ or "").strip().split("\n", 1)[0]
        source = Source(name or read.__name__, read, cite, summary, registry.origin(read), revision, test_images, files)
        _SOURCES.add(source.name, source, source.origin)
        return read

    return register


@cache
def datasets() -> registry.Registry[Source]:
    """Return all datasets: those of `pbt_bench/data/sources/`, then those of the folders in PBT_BENCH_DATASETS."""
    for folder in (Path(__file__).parent / "sources", *registry.extra_folders("PBT_BENCH_DATASETS")):
        registry.load_folder(folder, "pbt_bench_datasets")
    return _SOURCES


def dataset_revision(name: str) -> int | str:
    """Return the revision of a dataset: its number, or a digest of its file outside the project."""
    return registry.revision(datasets().origin(name), datasets()[name].revision)


def load(name: str, folder: Path) -> Dataset:
    """Load the dataset `name` from `folder`. Raises RequestError if it is unknown, missing or damaged."""
    return datasets()[name].load(folder)
