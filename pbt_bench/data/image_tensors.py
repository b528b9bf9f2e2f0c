"""Images held in memory, and their random transforms, on the device of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


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

    def contents(self) -> Iterator[bytes]:
        """Yield the bytes of all pixels."""
        for part in self.pixels.split(4096):
            yield part.contiguous().numpy().tobytes()

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
        corners = ((top, height), (left, width))
        rows, columns = (corner + torch.arange(size, device=pixels.device) for corner, size in corners)
        padded = F.pad(pixels, [padding] * 4)
        first = torch.arange(n, device=pixels.device)[:, None, None]
        pixels = padded.permute(0, 2, 3, 1)[first, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if "flip" in augmentation.how:
        flipped = send(torch.rand(n, generator=generator), pixels.device) < 0.5
        pixels = torch.where(flipped[:, None, None, None], pixels.flip(3), pixels)
    return pixels
