"""MNIST and Fashion-MNIST, in torchvision's place and form.

torchvision checks the MD5 of the .gz files when it unpacks them; of the unpacked files, only their headers and lengths
show damage.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbt_bench.data import dataset

if TYPE_CHECKING:
    from pbt_bench.data.images import Dataset


@dataset(cite="LeCun et al. 1998, Gradient-based learning applied to document recognition")
def mnist(folder: Path) -> Dataset:
    """70,000 grey images of 28x28 pixels, handwritten digits, 10 classes; 10,000 are the test set."""
    return _mnist(folder, "mnist", "MNIST", "https://ossci-datasets.s3.amazonaws.com/mnist/")


@dataset(cite="Xiao et al. 2017, Fashion-MNIST", name="fashion-mnist")
def fashion_mnist(folder: Path) -> Dataset:
    """70,000 grey images of 28x28 pixels, articles of clothing, 10 classes; 10,000 are the test set."""
    return _mnist(folder, "fashion-mnist", "FashionMNIST", "https://github.com/zalandoresearch/fashion-mnist")


def _mnist(folder: Path, name: str, kind: str, page: str) -> Dataset:
    import torchvision

    from pbt_bench.data.archives import Archive
    from pbt_bench.data.images import from_arrays

    # without what torchvision itself saved before 2020, which nothing checks: "processed/training.pt"
    read: Any = type(kind, (getattr(torchvision.datasets, kind),), {"_check_legacy_exist": lambda self: False})

    def both(download: bool) -> Dataset:
        train, test = (read(folder, train=part, download=download) for part in (True, False))
        return from_arrays(train.data[:, None], train.targets, test.data[:, None], test.targets, 10)

    packed = [file for file, _ in read.resources]
    files = [(f"{kind}/raw/{file.removesuffix('.gz')}", None) for file in packed]
    return Archive(name, files, ", ".join(packed), page, f"{kind}/raw").read(folder, both)
