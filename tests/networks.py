"""Small networks that the tests share."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

GOLDEN = Path(__file__).parent / "golden" / "convnet.npz"


class ConvNet(nn.Module):
    """The network of the golden scores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        return self.linear(x.mean((2, 3)))


def golden() -> tuple[ConvNet, Tensor, Tensor, dict[str, dict[str, Tensor]]]:
    """(network, inputs, targets, arrays by case, e.g. "score/fts.b1", then by parameter)."""
    arrays = np.load(GOLDEN)
    net = ConvNet()
    net.load_state_dict({key[6:]: torch.tensor(arrays[key]) for key in arrays if key.startswith("state/")})
    cases: dict[str, dict[str, Tensor]] = {}
    for key in arrays:
        if key.count("/") == 2:
            case, _, parameter = key.rpartition("/")
            cases.setdefault(case, {})[parameter] = torch.tensor(arrays[key])
    return net, torch.tensor(arrays["x"]), torch.tensor(arrays["y"]), cases


def batches(x: Tensor, y: Tensor, *sizes: int) -> list[tuple[Tensor, Tensor]]:
    """Consecutive batches of the given sizes."""
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def mlp(*widths: int, bias: bool = True, seed: int = 0) -> nn.Sequential:
    """Linear layers with ReLU between them, in float64."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


class Odd(nn.Module):
    """Everything that a fast path may get wrong: groups, dilation, strides, circular padding, 1-d convolution,
    a layer used twice, tied weights, tokens with a linear layer, a residual, no batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 3, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2)
        self.circular = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular", bias=False)
        self.same = nn.Conv2d(8, 8, (3, 1), padding="same")
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.tokens = nn.Linear(8, 8)
        self.line = nn.Conv1d(8, 6, 3, stride=2, padding=1)
        self.twin = nn.Linear(6, 6)
        self.twin2 = nn.Linear(6, 6)
        self.twin2.weight = self.twin.weight
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.grouped(x))
        x = x + F.relu(self.circular(x))
        x = F.gelu(self.same(x)) + self.depthwise(self.depthwise(x))
        x = self.tokens(x.flatten(2).transpose(1, 2)).transpose(1, 2)
        x = torch.tanh(self.line(x)).mean(2)
        return self.head(torch.tanh(self.twin2(torch.tanh(self.twin(x)))))
