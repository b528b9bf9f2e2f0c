"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv:1605.07146): pre-activation blocks, no dropout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PreActivationBlock(nn.Module):
    """Twice BatchNorm, ReLU, 3x3 convolution. If the shape changes, the shortcut projects (1x1) the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, inputs, h, w] to [n, outputs, h / stride, w / stride]."""
        active = F.relu(self.bn1(x))
        y: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(active)
        return y + shortcut


class WideResNet(nn.Module):
    """3x3 stem of 16 channels, three stages of 16-32-64 channels times `width`, BatchNorm, global mean, classifier."""

    def __init__(self, channels: int, classes: int, depth: int, width: int) -> None:
        super().__init__()
        count, rest = divmod(depth - 4, 6)
        assert rest == 0, depth
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        stages, inputs = [], 16
        for index, outputs in enumerate((16 * width, 32 * width, 64 * width)):
            stage = []
            for position in range(count):
                stage.append(PreActivationBlock(inputs, outputs, 2 if index > 0 and position == 0 else 1))
                inputs = outputs
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(inputs)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, h, w] with h, w >= 8 to logits [n, classes]."""
        x = F.relu(self.bn(self.stages(self.conv1(x))))
        logits: Tensor = self.classifier(torch.mean(x, dim=(2, 3)))
        return logits


def wide_resnet(channels: int, classes: int, depth: int, width: int) -> WideResNet:
    """Build WRN-depth-width: depth = 6 n + 4 with n blocks per stage."""
    return WideResNet(channels, classes, depth, width)
