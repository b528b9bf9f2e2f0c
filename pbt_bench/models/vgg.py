"""VGG networks with batch normalisation for small images (Simonyan and Zisserman 2015, arXiv:1409.1556).

As in the pruning literature (GraSP, FORCE, OpenLTH), one linear layer replaces the three of the paper. It
classifies the mean of the last features over the image. The last group is not followed by maximum pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POOL: Literal["pool"] = "pool"

DEPTHS = {  # arXiv:1409.1556, Table 1, columns A, B, D, E: convolutions of 64, 128, 256, 512, 512 channels
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class Pool(nn.MaxPool2d):
    """2x2 maximum pooling that keeps a side of one pixel, so that images smaller than 16x16 are accepted."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, c, h, w] to [n, c, max(h // 2, 1), max(w // 2, 1)]."""
        return F.max_pool2d(x, [min(2, side) for side in x.shape[2:]])


class VGG(nn.Module):
    """3x3 convolutions with batch normalisation and ReLU, 2x2 maximum pooling, global mean, one linear classifier."""

    def __init__(self, plan: Sequence[int | Literal["pool"]], channels: int, classes: int, bias: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in plan:
            if width == POOL:
                layers.append(Pool())
                continue
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=bias), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, h, w] with h, w >= 8 to logits [n, classes]."""
        logits: Tensor = self.classifier(torch.mean(self.features(x), dim=(2, 3)))
        return logits


def vgg8(channels: int, classes: int) -> VGG:
    """Build seven convolutions and a classifier, for images of 8x8 or more: about 80,000 parameters."""
    return VGG((16, 16, POOL, 32, 32, POOL, 48, 48, 64), channels, classes)


def vgg(channels: int, classes: int, depth: int, bias: bool = False) -> VGG:
    """Build VGG-11, 13, 16 or 19; `bias` adds convolution biases, which batch normalisation makes superfluous."""
    plan: list[int | Literal["pool"]] = []
    for count, width in zip(DEPTHS[depth], (64, 128, 256, 512, 512), strict=True):
        plan += [POOL] if plan else []
        plan += [width] * count
    return VGG(plan, channels, classes, bias)
