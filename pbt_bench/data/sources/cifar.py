"""CIFAR-10 and CIFAR-100, in the paths and format of torchvision.

The files are Python pickles, which can execute arbitrary code. torchvision unpickles them only if their MD5 is the
published one. Never disable that check.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pbt_bench.data import dataset

if TYPE_CHECKING:
    from pbt_bench.data.images import Dataset

CITE = "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images"


@dataset(cite=CITE, test_images=10_000, files=("cifar-10-batches-py", "cifar-10-python.tar.gz"))
def cifar10(folder: Path) -> Dataset:
    """60,000 colour images of 32x32 pixels, 10 classes; 10,000 are the test set."""
    return _cifar(folder, "CIFAR10", 10)


@dataset(cite=CITE, test_images=10_000, files=("cifar-100-python", "cifar-100-python.tar.gz"))
def cifar100(folder: Path) -> Dataset:
    """60,000 colour images of 32x32 pixels, 100 classes; 10,000 are the test set."""
    return _cifar(folder, "CIFAR100", 100)


def _cifar(folder: Path, kind: str, classes: int) -> Dataset:
    import torchvision

    from pbt_bench.data.archives import Archive
    from pbt_bench.data.images import from_arrays

    read = getattr(torchvision.datasets, kind)

    def both(download: bool) -> Dataset:
        train, test = (read(folder, train=part, download=download) for part in (True, False))
        # torchvision holds [n, h, w, c] as a view of [n, c, h, w]: transposing it back copies nothing
        pixels = (part.data.transpose(0, 3, 1, 2) for part in (train, test))
        return from_arrays(next(pixels), train.targets, next(pixels), test.targets, classes)

    files = [(f"{read.base_folder}/{file}", md5) for file, md5 in [*read.train_list, *read.test_list]]
    files.append((f"{read.base_folder}/{read.meta['filename']}", read.meta["md5"]))
    page = "https://www.cs.toronto.edu/~kriz/cifar.html"
    archive = Archive(kind.lower(), files, read.filename, page, packed=[read.filename])
    return archive.read(folder, both)
