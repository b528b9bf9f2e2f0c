"""Datasets of images, and their creation from arrays, folders of files, and pairs of torchvision's datasets."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pbt_bench.data import tuning
from pbt_bench.data.image_tensors import Images
from pbt_bench.data.stream import Streamed, class_folders, read_folders
from pbt_bench.errors import RequestError

ImageSet = Images | Streamed


@dataclass(frozen=True)
class Dataset:
    """Training and test images, and the channel means and standard deviations of the training pixels in [0, 1]."""

    train: ImageSet
    test: ImageSet
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @cached_property
    def digest(self) -> str:
        """The first 16 hex digits of a SHA-256 over images, labels and normalisation.

        Of images that are read from files while they are used, the names and sizes of the files count.
        """
        total = hashlib.sha256(repr((self.classes, self.mean, self.std)).encode())
        for part in (self.train, self.test):
            total.update(repr((len(part), part.shape)).encode())
            total.update(part.targets.numpy().tobytes())
            for piece in part.contents():
                total.update(piece)
        return total.hexdigest()[:16]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.train.shape[0]

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.train.shape[-1]


def from_arrays(x_train: Any, y_train: Any, x_test: Any, y_test: Any, classes: int | None = None) -> Dataset:
    """Make a `Dataset` of uint8 arrays [n, channels, side, side] and integer labels, normalised by its own pixels.

    `classes` is by default one more than the largest training label. Raises RequestError for other input.
    """
    train, test = _images(x_train, y_train, "training"), _images(x_test, y_test, "test")
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise RequestError(f"images are {_shape(train.pixels[0])} in training and {_shape(test.pixels[0])} in test")
    if classes is None:
        classes = int(train.targets.max()) + 1
        absent = sorted(set(range(classes)) - set(train.targets.tolist()))
        if absent:
            last = classes - 1
            raise RequestError(f"training labels are class indices from 0, but none is {absent[0]} (up to {last})")
    for part, images in (("training", train), ("test", test)):
        least, most = int(images.targets.min()), int(images.targets.max())
        if least < 0 or most >= classes:
            raise RequestError(f"{part} labels are {least} to {most}, but there are {classes} classes, from 0")
    mean, std = _mean_and_std(train.pixels)
    return Dataset(train, test, classes, mean, std)


def from_folders(train: Path, test: Path, side: int, mean: Sequence[float], std: Sequence[float]) -> Dataset:
    """Make a dataset of image files in one folder per class; the classes are in the order of their names.

    `train` and `test` must have the same classes. `mean` and `std` are those of the channels in [0, 1]. Raises
    RequestError, naming the folder, if a folder is missing or holds no image.
    """
    classes = class_folders(train)
    if (others := class_folders(test)) != classes:
        odd = sorted(set(classes) ^ set(others))[0]
        raise RequestError(f"{train} and {test} do not hold the same classes: {odd!r} is in only one of them")
    return Dataset(
        read_folders(train, classes, side), read_folders(test, classes, side), len(classes), tuple(mean), tuple(std)
    )


def as_dataset(given: Any) -> Dataset:
    """Convert the return value of a user's function: a `Dataset`, four arrays, or a pair (training, test).

    The members of a pair are sequences of (image, label) with a length, as torchvision's datasets are. Raises
    RequestError for other values.
    """
    if isinstance(given, Dataset):
        return given
    if isinstance(given, (tuple, list)) and len(given) == 4:
        return from_arrays(*given)
    if isinstance(given, (tuple, list)) and len(given) == 2:
        return from_arrays(*_stacked(given[0], "training"), *_stacked(given[1], "test"))
    valid = "a Dataset, four arrays or a pair (training, test) of torchvision's"
    raise RequestError(f"returned {type(given).__name__}, not {valid}")


def _images(pixels: Any, labels: Any, part: str) -> Images:
    # torch keeps the strides of a numpy array, and shares its memory if a tensor can have these strides
    pixels, targets = torch.as_tensor(pixels).contiguous(), torch.as_tensor(labels)
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[2] != pixels.shape[3]:
        raise RequestError(f"{part} images are {pixels.dtype} {_shape(pixels)}, not uint8 [n, channels, side, side]")
    if targets.is_floating_point() or targets.shape != pixels.shape[:1] or not len(targets):
        raise RequestError(f"{part} labels are {targets.dtype} {_shape(targets)} for {len(pixels)} images")
    return Images(pixels, targets.long())


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _mean_and_std(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the channel means and (unbiased) standard deviations of [n, channels, h, w] in [0, 1].

    They follow from the count c of every value v and are exactly rounded, so that they do not depend on the number of
    threads: sum(v c) / 255 n, and sqrt((n sum(v^2 c) - sum(v c)^2) / (255^2 n (n - 1))).
    """
    means, deviations = [], []
    for channel in range(pixels.shape[1]):
        counts = torch.zeros(256, dtype=torch.int64)
        for chunk in pixels[:, channel].split(tuning.COUNTED_IMAGES):
            counts += torch.bincount(chunk.flatten(), minlength=256)
        n = int(counts.sum())
        first, second = (sum(value**power * count for value, count in enumerate(counts.tolist())) for power in (1, 2))
        means.append(first / (255 * n))
        deviations.append(sqrt((n * second - first**2) / (255**2 * n * (n - 1))))
    return tuple(means), tuple(deviations)


def _stacked(items: Any, part: str) -> tuple[Tensor, Tensor]:
    """Return all images and labels of a sequence. Each image is read once, the first 16 twice to detect randomness."""
    pixels, labels = torch.empty(0, dtype=torch.uint8), []
    for index in range(len(items)):
        where = f"{part} item {index}"
        try:
            image, label = items[index]
            labels.append(operator.index(label))
        except (TypeError, ValueError) as error:
            raise RequestError(f"{where} is not an (image, integer label): {error}") from error
        image = _uint8(image, where)
        if index == 0:
            pixels = torch.empty((len(items), *image.shape), dtype=torch.uint8)
        if image.shape != pixels.shape[1:]:
            raise RequestError(f"{where} is {_shape(image)}, the first is {_shape(pixels[0])}; resize them all alike")
        if index < 16 and not torch.equal(image, _uint8(items[index][0], where)):
            raise RequestError(f"{where} differs each time it is read: leave augmentation to the recipe")
        pixels[index] = image
    return pixels, torch.tensor(labels, dtype=torch.int64)


def _uint8(image: Any, where: str) -> Tensor:
    """Return a PIL image, a uint8 tensor or the floats k/255 of ToTensor as uint8 [channels, h, w]."""
    if hasattr(image, "getbands"):
        if image.mode not in ("1", "L", "P", "RGB"):
            raise RequestError(f"{where} is a PIL image of mode {image.mode}; convert it to L or RGB")
        grey = image.mode in ("1", "L")
        values = torch.from_numpy(np.array(image.convert("L" if grey else "RGB")))
        return values[None] if grey else values.permute(2, 0, 1)
    if not isinstance(image, Tensor) or image.ndim not in (2, 3):
        raise RequestError(f"{where} is a {type(image).__name__}, not a PIL image or a tensor [channels, h, w]")
    given: Tensor = image if image.ndim == 3 else image[None]
    if given.dtype == torch.uint8:
        return given
    levels = (given.double() * 255).round()
    if not bool((((levels / 255 - given).abs() < 1e-4) & (levels >= 0) & (levels <= 255)).all()):
        raise RequestError(f"{where} is {given.dtype}, not uint8 or ToTensor's k/255; leave Normalize out")
    return levels.to(torch.uint8)
