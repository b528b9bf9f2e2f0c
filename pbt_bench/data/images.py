"""Image tensors on the device: split, normalise, augment, sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pbt_bench.seeds import derive, stream


@dataclass(frozen=True)
class Images:
    """uint8 images [n, channels, height, width] and class indices int64 [n]."""

    pixels: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Tensor) -> Images:
        return Images(self.pixels[index], self.targets[index])

    def to(self, device: torch.device) -> Images:
        """The same images on `device`."""
        return Images(self.pixels.to(device), self.targets.to(device))


@dataclass(frozen=True)
class Dataset:
    """Training and test images, and the channel means and standard deviations of the training pixels in [0, 1]."""

    train: Images
    test: Images
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.train.pixels.shape[1]

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.train.pixels.shape[-1]


def from_arrays(x_train: Any, y_train: Any, x_test: Any, y_test: Any) -> Dataset:
    """A `Dataset` from uint8 arrays [n, channels, height, width] and integer labels, normalised by its own pixels."""
    train = Images(torch.as_tensor(x_train), torch.as_tensor(y_train).long())
    test = Images(torch.as_tensor(x_test), torch.as_tensor(y_test).long())
    scaled = train.pixels.double() / 255
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))
    return Dataset(train, test, int(train.targets.max()) + 1, tuple(mean.tolist()), tuple(std.tolist()))


@dataclass(frozen=True)
class Data:
    """What one run sees, on its device. The validation images are of the training set, never of the test set."""

    train: Images
    validation: Images
    test: Images
    classes: int
    mean: Tensor  # [1, channels, 1, 1]
    std: Tensor

    def inputs(self, pixels: Tensor) -> Tensor:
        """Normalised float32 network inputs."""
        return (pixels.float() / 255 - self.mean) / self.std


def prepare(dataset: Dataset, validation_fraction: float, split_seed: int, device: torch.device) -> Data:
    """Split off the stratified validation images (the run's seed plays no part) and move everything to `device`."""
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


def _split(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    from sklearn.model_selection import train_test_split

    index = torch.arange(len(images))
    if fraction == 0:
        return images, images[index[:0]]
    kept, held = train_test_split(index.numpy(), test_size=fraction, stratify=images.targets.numpy(), random_state=seed)
    return images[torch.as_tensor(kept).sort().values], images[torch.as_tensor(held).sort().values]


def augment(pixels: Tensor, how: str, padding: int, generator: torch.Generator) -> Tensor:
    """A batch with random crops (after zero padding) and horizontal flips, one draw per image; [n, c, h, w].

    `how` is "none", "crop", "flip" or "crop-flip". The draws come from a CPU generator, so every device gets
    the same; the pixels stay where they are.
    """
    n, _, height, width = pixels.shape
    if "crop" in how and padding:
        top, left = torch.randint(2 * padding + 1, (2, n, 1), generator=generator)
        rows = (top + torch.arange(height)).to(pixels.device)  # [n, h]
        columns = (left + torch.arange(width)).to(pixels.device)
        padded = F.pad(pixels, [padding] * 4)
        first = torch.arange(n, device=pixels.device)[:, None, None]
        pixels = padded.permute(0, 2, 3, 1)[first, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if "flip" in how:
        flipped = torch.rand(n, generator=generator).to(pixels.device) < 0.5
        pixels = torch.where(flipped[:, None, None, None], pixels.flip(3), pixels)
    return pixels


def scoring_images(
    images: Images, samples_per_class: int | str, most_samples: int | None, classes: int, seed: int
) -> Images:
    """`samples_per_class` images of every class in random order, or all as they are; at most `most_samples` of them."""
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
    return images[index.to(images.targets.device)]
