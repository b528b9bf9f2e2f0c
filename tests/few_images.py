"""Twelve small images and a linear classifier that records its training, for tests of the training loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pbt_bench.data.image_tensors import Images
from pbt_bench.data.run_data import Data


def few() -> Data:
    """Return twelve 4 x 4 images of three classes. Image i has one bright pixel of value 10 + i in its first column."""
    pixels = torch.zeros(12, 1, 4, 4, dtype=torch.uint8)
    pixels[:, 0, 1, 0] = torch.arange(10, 22)
    images = Images(pixels, torch.arange(12) % 3)
    return Data(images, images, images, 3, torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))


class Watched(nn.Module):
    """Linear classifier of `few` that records the pixels of each training batch, and the output of dropout for ones."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)
        self.pixels: list[Tensor] = []
        self.dropped: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.pixels.append((255 * x[:, 0]).round())
            self.dropped.append(nn.functional.dropout(torch.ones(30)))
        return self.linear(x.flatten(1))
