"""ImageNet, streamed from its unpacked folders: it is neither downloaded nor held in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pbt_bench.data import dataset
from pbt_bench.errors import RequestError

if TYPE_CHECKING:
    from pbt_bench.data.images import Dataset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's reference recipes


@dataset(cite="Russakovsky et al. 2015, arXiv:1409.0575 (ILSVRC 2012)", test_images=50_000, files=("imagenet",))
def imagenet(folder: Path) -> Dataset:
    """1.28 million colour images read at 224x224 while used, 1,000 classes; its 50,000 "val" are the test set.

    `folder`/imagenet/train and `folder`/imagenet/val hold one folder per class, as torchvision's `ImageNet` unpacks
    the published archives. A subset of the classes or images is accepted.
    """
    from pbt_bench.data.images import from_folders

    root = folder / "imagenet"
    try:
        return from_folders(root / "train", root / "val", 224, MEAN, STD)
    except RequestError as error:
        raise RequestError(
            f"imagenet: {error}; put the archives of https://image-net.org into {root} and let "
            f'torchvision.datasets.ImageNet("{root}", split) unpack both splits there'
        ) from None
