"""Street View House Numbers, in the paths and format of torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pbt_bench.data import dataset

if TYPE_CHECKING:
    from pbt_bench.data.images import Dataset


@dataset(
    cite="Netzer et al. 2011, Reading Digits in Natural Images with Unsupervised Feature Learning",
    test_images=26_032,
    files=("train_32x32.mat", "test_32x32.mat"),
)
def svhn(folder: Path) -> Dataset:
    """99,289 colour images of 32x32 pixels, house numbers, 10 classes; 26,032 are the test set; "extra" is not used."""
    from torchvision.datasets import SVHN

    from pbt_bench.data.archives import Archive
    from pbt_bench.data.images import from_arrays

    def both(download: bool) -> Dataset:
        train, test = (SVHN(folder, split=part, download=download) for part in ("train", "test"))
        return from_arrays(train.data, train.labels, test.data, test.labels, 10)

    files = [tuple(SVHN.split_list[part][1:]) for part in ("train", "test")]
    archive = Archive("svhn", files, " and ".join(file for file, _ in files), "http://ufldl.stanford.edu/housenumbers/")
    return archive.read(folder, both)
