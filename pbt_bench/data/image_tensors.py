"""Images held in memory, on the device of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pbt_bench.data.augmentation import Augmentation, augment, send


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
