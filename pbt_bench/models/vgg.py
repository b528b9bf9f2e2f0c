"""VGG networks with batch normalisation for small images (Simonyan and Zisserman 2015, arXiv:1409.1556)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

POOL: Literal["pool"] = "pool"


class VGG(nn.Module):
    """3x3 convolutions with batch normalisation and ReLU, 2x2 maximum pooling, global mean, one linear classifier."""

    def __init__(self, plan: Sequence[int | Literal["pool"]], channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in plan:
            if width == POOL:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] -> logits [n, classes]."""
        return self.classifier(torch.mean(self.features(x), dim=(2, 3)))


def vgg8(channels: int, classes: int) -> VGG:
    """Seven convolutions and a classifier, for inputs from 8x8 up: about 80,000 parameters."""
    return VGG((16, 16, POOL, 32, 32, POOL, 48, 48, 64), channels, classes)
