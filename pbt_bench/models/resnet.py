"""Residual networks with stems for small and for large images (He et al. 2016, arXiv:1512.03385).

Two layouts share the code: three stages of 16-32-64 channels (Sec. 4.2, ResNet-20 to ResNet-1202) and four stages of
64-128-256-512 (Table 1, ResNet-18 to ResNet-152), which the pruning literature runs on CIFAR with a 3x3 stem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shortcut = Literal["projection", "identity"]
Stem = Literal["cifar", "tiny-imagenet", "imagenet"]

STEMS: dict[Stem, tuple[int, int]] = {"cifar": (3, 1), "tiny-imagenet": (3, 2), "imagenet": (7, 2)}  # kernel, stride


class Pad(nn.Module):
    """The shortcut without parameters: every `stride`-th pixel, new channels zero (He et al. 2016, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.new, self.stride = outputs - inputs, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, inputs, h, w] to [n, outputs, ⌈h / stride⌉, ⌈w / stride⌉], the shape of a strided convolution."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))


def _shortcut(inputs: int, outputs: int, stride: int, kind: Shortcut) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    if kind == "identity":
        return Pad(inputs, outputs, stride)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation around a shortcut."""

    expansion: ClassVar[int] = 1

    def __init__(self, inputs: int, width: int, stride: int, shortcut: Shortcut = "projection") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, inputs, h, w] to [n, width, h / stride, w / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1 reduction, 3x3 convolution (with the stride), 1x1 expansion to 4 x width, around a shortcut."""

    expansion: ClassVar[int] = 4

    def __init__(self, inputs: int, width: int, stride: int, shortcut: Shortcut = "projection") -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, inputs, h, w] to [n, 4 * width, h / stride, w / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, stages of blocks (every stage after the first halves the resolution), global mean, classifier.

    Stems: "cifar" = 3x3, stride 1; "tiny-imagenet" = 3x3, stride 2 (as Lee et al. 2019, arXiv:1810.02340, double the
    first stride for 64x64 images); "imagenet" = 7x7, stride 2, then 3x3 maximum pooling, stride 2.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        widths: Sequence[int],
        channels: int,
        classes: int,
        block: type[BasicBlock | Bottleneck] = BasicBlock,
        shortcut: Shortcut = "projection",
        stem: Stem = "cifar",
    ) -> None:
        super().__init__()
        kernel, stride = STEMS[stem]
        self.pooled_stem = stem == "imagenet"
        self.conv1 = nn.Conv2d(channels, widths[0], kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages, inputs = [], widths[0]
        for index, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            stage = []
            for position in range(count):
                stage.append(block(inputs, width, 2 if index > 0 and position == 0 else 1, shortcut))
                inputs = block.expansion * width
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, h, w] with h, w >= 8 to logits [n, classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        if self.pooled_stem:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        logits: Tensor = self.classifier(torch.mean(self.stages(x), dim=(2, 3)))
        return logits


def three_stages(channels: int, classes: int, depth: int, shortcut: Shortcut, width: int = 1) -> ResNet:
    """Build the CIFAR layout: depth = 6 n + 2 with n basic blocks per stage, 16-32-64 channels times `width`."""
    count, rest = divmod(depth - 2, 6)
    assert rest == 0, depth
    return ResNet((count,) * 3, (16 * width, 32 * width, 64 * width), channels, classes, BasicBlock, shortcut)


def four_stages(channels: int, classes: int, blocks: Sequence[int], bottleneck: bool, stem: Stem = "cifar") -> ResNet:
    """Build the ImageNet layout (Table 1): 64-128-256-512 channels, projections where the shape changes."""
    block = Bottleneck if bottleneck else BasicBlock
    return ResNet(blocks, (64, 128, 256, 512), channels, classes, block, "projection", stem)
