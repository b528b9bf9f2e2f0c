"""LeNet-300-100 (LeCun et al. 1998) and the LeNet-5 of Caffe and the pruning literature (Han et al. 2015)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pbt_bench.errors import RequestError


class LeNet300100(nn.Module):
    """Two hidden linear layers of 300 and 100 units with ReLU; 266,610 parameters for 28x28 grey images."""

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(channels * size * size, 300)
        self.hidden2 = nn.Linear(300, 100)
        self.classifier = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, size, size] to logits [n, classes]."""
        x = F.relu(self.hidden1(x.flatten(1)))
        logits: Tensor = self.classifier(F.relu(self.hidden2(x)))
        return logits


class LeNet5(nn.Module):
    """5x5 convolutions of 20 and 50 channels, each with 2x2 maximum pooling, 500 hidden units, classifier.

    431,080 parameters for 28x28 grey images. As in Caffe and in Lee et al. 2019 (arXiv:1810.02340), only the hidden
    layer has a ReLU.
    """

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__()
        side = ((size - 4) // 2 - 4) // 2
        if side < 1:
            raise RequestError(f"model 'lenet5' needs images of 16x16 pixels or more, not {size}x{size}")
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.hidden = nn.Linear(50 * side * side, 500)
        self.classifier = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, size, size] to logits [n, classes]."""
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        logits: Tensor = self.classifier(F.relu(self.hidden(x.flatten(1))))
        return logits
