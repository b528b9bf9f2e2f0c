"""Image tensors on the device: splits, normalisation, augmentation, batches and scoring samples."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pbt_bench.errors import RequestError
from pbt_bench.seeds import derive, stream

if TYPE_CHECKING:
    from pbt_bench.data.stream import Streamed


@dataclass(frozen=True)
class Images:
    """uint8 images [n, channels, height, width] and class indices int64 [n]."""

    pixels: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Tensor) -> Images:
        return Images(self.pixels[index], self.targets[index])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def to(self, device: torch.device) -> Images:
        """Return the same images on `device`."""
        return Images(self.pixels.to(device), self.targets.to(device))

    def example(self) -> Tensor:
        """Return the first image, [1, channels, height, width]."""
        return self.pixels[:1]

    def in_order(self, size: int) -> Iterator[Images]:
        """Iterate over all images in batches of `size`."""
        return map(Images, self.pixels.split(size), self.targets.split(size))

    def batches(
        self, order: Tensor, parts: Iterable[slice], augmentation: Augmentation | None = None
    ) -> Iterator[Images]:
        """Yield the images `order[part]`, augmented if requested, for every part."""
        order = send(order, self.targets.device)
        for part in parts:
            batch = self[order[part]]
            yield Images(augment(batch.pixels, augmentation), batch.targets) if augmentation else batch


@dataclass(frozen=True)
class Augmentation:
    """Random transforms of training images: `how` is "none", "crop", "flip" or "crop-flip"."""

    how: str
    padding: int  # zero pixels added on every side before a crop
    generator: torch.Generator  # on the CPU, so that the draws are the same for every device


@dataclass(frozen=True)
class Dataset:
    """Training and test images, and the channel means and standard deviations of the training pixels in [0, 1]."""

    train: Images | Streamed
    test: Images | Streamed
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

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
            raise RequestError(
                f"training labels are class indices from 0, but none is {absent[0]} (up to {classes - 1})"
            )
    for part, images in (("training", train), ("test", test)):
        least, most = int(images.targets.min()), int(images.targets.max())
        if least < 0 or most >= classes:
            raise RequestError(f"{part} labels are {least} to {most}, but there are {classes} classes, from 0")
    mean, std = _mean_and_std(train.pixels)
    return Dataset(train, test, classes, mean, std)


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
    raise RequestError(
        f"returned {type(given).__name__}, not a Dataset, four arrays or a pair (training, test) of torchvision's"
    )


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


def _mean_and_std(pixels: Tensor, small: int = 2**24) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the channel means and (unbiased) standard deviations of [n, channels, h, w] in [0, 1].

    Up to `small` values they are computed in a float64 copy. For larger sets the count c of every value v is taken,
    and the results are exactly rounded: sum(v c) / 255 n, and sqrt((n sum(v^2 c) - sum(v c)^2) / (255^2 n (n - 1))).
    """
    if pixels.numel() <= small:
        scaled = pixels.double() / 255
        return tuple(scaled.mean((0, 2, 3)).tolist()), tuple(scaled.std((0, 2, 3)).tolist())
    means, deviations = [], []
    for channel in range(pixels.shape[1]):
        counts = torch.zeros(256, dtype=torch.int64)
        for chunk in pixels[:, channel].split(4096):
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


@dataclass(frozen=True)
class Data:
    """The images of one run on its device. Validation images come from the training set, never from the test set."""

    train: Images | Streamed
    validation: Images | Streamed
    test: Images | Streamed
    classes: int
    mean: Tensor  # [1, channels, 1, 1]
    std: Tensor

    def inputs(self, pixels: Tensor) -> Tensor:
        """Return the pixels as normalised float32 network inputs."""
        return (pixels.float() / 255 - self.mean) / self.std


def prepare(dataset: Dataset, validation_fraction: float, split_seed: int, device: torch.device) -> Data:
    """Split off the stratified validation images, independently of the run's seed, and move all images to `device`."""
    train, validation = _split(dataset.train, validation_fraction, derive(split_seed, "validation split") % 2**32)

    def channelwise(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)

    return Data(
        train.to(device),
        validation.to(device),
        dataset.test.to(device),
        dataset.classes,
        channelwise(dataset.mean),
        channelwise(dataset.std),
    )


def check_split(images: Images | Streamed, fraction: float) -> None:
    """Raise RequestError, naming the field, unless `fraction` of the training images can be split off by class."""
    if fraction == 0:
        return
    counts = images.targets.bincount().tolist()
    field = f"recipe.validation_fraction = {fraction:g}"
    if 1 in counts:
        raise RequestError(
            f"{field} needs two training images of every class or more, and class {counts.index(1)} has one"
        )
    held, classes = ceil(fraction * len(images)), len(counts) - counts.count(0)
    if min(held, len(images) - held) < classes:
        parts = f"{len(images)} training images into {len(images) - held} and {held}"
        raise RequestError(f"{field} splits {parts}: either part needs one of each of the {classes} classes")


def _split(images: Images | Streamed, fraction: float, seed: int) -> tuple[Images | Streamed, Images | Streamed]:
    from sklearn.model_selection import train_test_split

    check_split(images, fraction)
    index = torch.arange(len(images))
    if fraction == 0:
        return images, images[index[:0]]
    kept, held = train_test_split(index.numpy(), test_size=fraction, stratify=images.targets.numpy(), random_state=seed)
    return images[torch.as_tensor(kept).sort().values], images[torch.as_tensor(held).sort().values]


def send(values: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device` without waiting for the GPU."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def augment(pixels: Tensor, augmentation: Augmentation) -> Tensor:
    """Return a batch [n, c, h, w] with random crops (after zero padding) and horizontal flips, one draw per image.

    The input is not modified, and the result is on its device.
    """
    n, _, height, width = pixels.shape
    padding, generator = augmentation.padding, augmentation.generator
    if "crop" in augmentation.how and padding:
        top, left = send(torch.randint(2 * padding + 1, (2, n, 1), generator=generator), pixels.device)
        rows, columns = (
            corner + torch.arange(size, device=pixels.device) for corner, size in ((top, height), (left, width))
        )
        padded = F.pad(pixels, [padding] * 4)
        first = torch.arange(n, device=pixels.device)[:, None, None]
        pixels = padded.permute(0, 2, 3, 1)[first, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if "flip" in augmentation.how:
        flipped = send(torch.rand(n, generator=generator), pixels.device) < 0.5
        pixels = torch.where(flipped[:, None, None, None], pixels.flip(3), pixels)
    return pixels


def scoring_images(
    images: Images | Streamed,
    samples_per_class: int | str,
    most_samples: int | None,
    classes: int,
    seed: int,
    order: str = "shuffled",
) -> Images | Streamed:
    """Draw `samples_per_class` images of every class in random order, at most `most_samples` in total.

    A smaller class gives all its images. With `samples_per_class` "all" and no `most_samples`, all images are returned
    in their order. `order` "class" sorts the result by class; "cycle" takes the first image of every class, then the
    second of every class, and so on.
    """
    generator = stream(seed, "scoring samples")
    targets = images.targets.cpu()
    index = torch.arange(len(images))
    if samples_per_class != "all":
        chosen = []
        for label in range(classes):
            members = (targets == label).nonzero().flatten()
            chosen.append(members[torch.randperm(len(members), generator=generator)[: int(samples_per_class)]])
        index = torch.cat(chosen)
    if samples_per_class != "all" or most_samples is not None:
        index = index[torch.randperm(len(index), generator=generator)[:most_samples]]
    if order != "shuffled":
        index = index[targets[index].argsort(stable=True)]
    if order == "cycle":
        counts = targets[index].bincount(minlength=classes)
        turn = torch.arange(len(index)) - (counts.cumsum(0) - counts)[targets[index]]
        index = index[turn.argsort(stable=True)]
    return images[index.to(images.targets.device)]
