"""Residual networks for small images (He et al. 2016, arXiv:1512.03385, Sec. 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation around an identity or 1x1-projection shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] -> [n, outputs, h / stride, w / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, stages of basic blocks (every stage after the first halves the resolution), global mean, classifier."""

    def __init__(self, blocks: Sequence[int], widths: Sequence[int], channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages, inputs = [], widths[0]
        for index, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            strides = [1 if index == 0 else 2] + [1] * (count - 1)
            stages.append(
                nn.Sequential(*(BasicBlock(inputs if i == 0 else width, width, s) for i, s in enumerate(strides)))
            )
            inputs = width
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] with h, w >= 8 -> logits [n, classes]."""
        x = self.stages(F.relu(self.bn1(self.conv1(x))))
        return self.classifier(torch.mean(x, dim=(2, 3)))


def resnet8(channels: int, classes: int) -> ResNet:
    """One basic block per stage, 16-32-64 channels: about 78,000 parameters."""
    return ResNet((1, 1, 1), (16, 32, 64), channels, classes)
