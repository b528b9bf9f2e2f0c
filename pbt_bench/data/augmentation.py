"""Random transforms of training images, on the device of the images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


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
