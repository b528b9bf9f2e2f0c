"""Tiny ImageNet, read from its zip file after a check of the MD5, or from the unpacked folder."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zipfile import ZipFile

from pbt_bench.data import dataset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pbt_bench.data.images import Dataset

NAME = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
SIDE = 64
CLASSES = 200


@dataset(
    cite="Le and Yang 2015, Tiny ImageNet Visual Recognition Challenge, Stanford CS231N",
    name="tiny-imagenet",
    test_images=10_000,
    files=(f"{NAME}.zip", NAME),
)
def tiny_imagenet(folder: Path) -> Dataset:
    """110,000 colour images of 64x64 pixels, 200 classes; 10,000, its labelled "val", are the test set.

    The classes are in the order of their WordNet ids. An unpacked folder is read without a checksum, but every image
    that its lists name must exist.
    """
    from torchvision.datasets.utils import check_integrity, download_url

    from pbt_bench.data.archives import Archive

    packed, unpacked = folder / f"{NAME}.zip", folder / NAME

    def both(download: bool) -> Dataset:
        only_unpacked = unpacked.is_dir() and not packed.is_file()
        if download and not only_unpacked:
            download_url(URL, folder, packed.name, MD5)
        if only_unpacked:
            files = sorted(path.relative_to(folder).as_posix() for path in unpacked.rglob("*.*"))
            return _dataset(_Tree(files, lambda name: (folder / name).read_bytes()))
        if not check_integrity(str(packed), MD5):
            raise ValueError(f"{packed} has not the published MD5")
        with ZipFile(packed) as zipped:
            return _dataset(_Tree(sorted(zipped.namelist()), zipped.read))

    here_unpacked = unpacked.is_dir() and not packed.is_file()
    files = [(f"{NAME}/wnids.txt", None)] if here_unpacked else [(packed.name, MD5)]
    return Archive("tiny-imagenet", files, packed.name, URL).read(folder, both)


class _Tree(NamedTuple):
    """The files of a zip file or a folder, by their path from its root."""

    files: list[str]
    read: Callable[[str], bytes]

    def lines(self, name: str) -> list[str]:
        """Return the lines of a text file."""
        return self.read(f"{NAME}/{name}").decode().splitlines()


def _dataset(tree: _Tree) -> Dataset:
    from pbt_bench.data.images import from_arrays

    wnids = sorted({line.strip() for line in tree.lines("wnids.txt")} - {""})
    label = {wnid: index for index, wnid in enumerate(wnids)}
    if len(label) != CLASSES:
        raise ValueError(f"wnids.txt names {len(label)} classes instead of {CLASSES}")
    train = [
        (file, label[parts[2]])
        for file in tree.files
        if len(parts := file.split("/")) == 5 and parts[1] == "train" and file.endswith(".JPEG") and parts[2] in label
    ]
    there = set(tree.files)
    for wnid in label:  # <wnid>_boxes.txt names the images of a class
        boxes = f"train/{wnid}/{wnid}_boxes.txt"
        for line in tree.lines(boxes) if f"{NAME}/{boxes}" in there else ():
            if (file := f"{NAME}/train/{wnid}/images/{line.split()[0]}") not in there:
                raise FileNotFoundError(f"{file} is missing")
    test = [
        (f"{NAME}/val/images/{name}", label[wnid])
        for name, wnid, *_ in map(str.split, tree.lines("val/val_annotations.txt"))
    ]
    labels = [[each for _, each in part] for part in (train, test)]
    return from_arrays(_pixels(tree, train), labels[0], _pixels(tree, test), labels[1], CLASSES)


def _pixels(tree: _Tree, items: list[tuple[str, int]]) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    pixels = np.empty((len(items), 3, SIDE, SIDE), np.uint8)
    for index, (name, _) in enumerate(items):
        try:
            with Image.open(io.BytesIO(tree.read(name))) as image:
                if image.size != (SIDE, SIDE):
                    raise ValueError(f"{image.size} pixels")
                pixels[index] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)  # a few images are grey
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error
    return pixels
