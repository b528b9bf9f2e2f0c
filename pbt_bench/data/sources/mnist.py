"""MNIST and Fashion-MNIST, in the paths and format of torchvision.

The MD5 of the unpacked files is checked. Re-packed .gz files, such as those of Debian's package
`dataset-fashion-mnist`, are therefore accepted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbt_bench.data import dataset

if TYPE_CHECKING:
    from pbt_bench.data.images import Dataset

CHECKSUMS = {  # of the unpacked files, as published; for Fashion-MNIST also as in Debian's 0.0~git20200523.55506a9-1
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}


@dataset(
    cite="LeCun et al. 1998, Gradient-based learning applied to document recognition",
    test_images=10_000,
    files=("MNIST",),
)
def mnist(folder: Path) -> Dataset:
    """70,000 grey images of 28x28 pixels, handwritten digits, 10 classes; 10,000 are the test set."""
    return _read_mnist(folder, "mnist", "MNIST", "https://ossci-datasets.s3.amazonaws.com/mnist/")


@dataset(cite="Xiao et al. 2017, Fashion-MNIST", name="fashion-mnist", test_images=10_000, files=("FashionMNIST",))
def fashion_mnist(folder: Path) -> Dataset:
    """70,000 grey images of 28x28 pixels, articles of clothing, 10 classes; 10,000 are the test set."""
    return _read_mnist(folder, "fashion-mnist", "FashionMNIST", "https://github.com/zalandoresearch/fashion-mnist")


def _read_mnist(folder: Path, name: str, kind: str, page: str) -> Dataset:
    import torchvision

    from pbt_bench.data.archives import Archive
    from pbt_bench.data.images import from_arrays

    # ignore "processed/training.pt", saved by torchvision before 2020: it has no checksum
    read: Any = type(kind, (getattr(torchvision.datasets, kind),), {"_check_legacy_exist": lambda self: False})

    def both(download: bool) -> Dataset:
        if download:
            read(folder, download=True)
        if not archive.intact(folder):
            raise ValueError("remove it first")
        train, test = (read(folder, train=part) for part in (True, False))
        return from_arrays(train.data[:, None], train.targets, test.data[:, None], test.targets, 10)

    files = [(f"{kind}/raw/{file}", md5) for file, md5 in CHECKSUMS[kind].items()]
    names = ", ".join(f"{file}.gz" for file in CHECKSUMS[kind])
    archive = Archive(name, files, names, page, f"{kind}/raw", [f"{file}.gz" for file, _ in files])
    return archive.read(folder, both)
