"""Small networks that the tests share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pbt_bench.models.prunable import prunable
from pbt_bench.pruning.plugins import pruners, statistics

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
    """Return network, inputs, targets, and the arrays by case, such as "score/fts.b1", then by parameter."""
    arrays = np.load(GOLDEN)
    net = ConvNet()
    net.load_state_dict({key[6:]: torch.tensor(arrays[key]) for key in arrays if key.startswith("state/")})
    cases: dict[str, dict[str, Tensor]] = {}
    for key in arrays:
        if key.count("/") == 2:
            case, _, parameter = key.rpartition("/")
            cases.setdefault(case, {})[parameter] = torch.tensor(arrays[key])
    return net, torch.tensor(arrays["x"]), torch.tensor(arrays["y"]), cases


class Plain(nn.Module):
    """Three convolutions and a linear layer, for the second set of golden scores."""

    def __init__(self, bias: bool = False, normalise: bool = False, linear_bias: bool = True) -> None:
        super().__init__()
        for name, inputs, outputs, stride in (("1", 3, 8, 1), ("2", 8, 16, 2), ("3", 16, 16, 1)):
            self.add_module(f"c{name}", nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias))
            if normalise:
                self.add_module(f"b{name}", nn.BatchNorm2d(outputs))
        self.fc = nn.Linear(16, 10, bias=linear_bias)

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.named_children():
            if name == "fc":
                return layer(x.mean((2, 3)))
            x = layer(x)
            if name.startswith("b") or not hasattr(self, "b1"):
                x = F.relu(x)
        raise AssertionError("no linear layer")


class Block(nn.Module):
    """Two normalised convolutions with an identity or a projection as shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class Residual(nn.Module):
    """A convolution, two identity blocks, a projection block, an identity block and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Block(8, 8, 1), Block(8, 8, 1))
        self.layer2 = nn.Sequential(Block(8, 16, 2), Block(16, 16, 1))
        self.linear = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))).mean((2, 3)))


PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    "conv": partial(Plain, bias=True),
    "convbn": partial(Plain, normalise=True),
    "res": Residual,
    "ConvNoBias": partial(Plain, linear_bias=False),
}


def published(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Return network, inputs and targets of the second set of golden scores, in float64."""
    arrays = np.load(GOLDEN.with_name("networks.npz"))
    net = PUBLISHED[name]().double()
    start = f"state/{name}/"
    net.load_state_dict({key.removeprefix(start): torch.tensor(arrays[key]) for key in arrays if key.startswith(start)})
    return net, torch.tensor(arrays["x"]), torch.tensor(arrays["y"])


def random_masks(net: nn.Module, density: float) -> dict[str, Tensor]:
    """Return masks that keep every weight with the probability `density`."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(p.shape, generator=generator) < density for name, p in prunable(net).items()}


def published_values(file: str) -> dict[str, dict[str, Tensor]]:
    """Return the arrays of a file of the second set by case, such as "score/conv.running", then by parameter."""
    cases: dict[str, dict[str, Tensor]] = {}
    for key, value in np.load(GOLDEN.with_name(f"{file}.npz")).items():
        case, _, parameter = key.rpartition("/")
        cases.setdefault(case, {})[parameter] = torch.tensor(value)
    return cases


def scored_methods() -> list[str]:
    """Return the methods that have scores without a sparsity and without training."""
    needs = {name: [statistics()[need] for need in entry.needs] for name, entry in pruners().items()}
    return [name for name, entries in needs.items() if not any(each.per_sparsity or each.trains for each in entries)]


def batches(x: Tensor, y: Tensor, *sizes: int) -> list[tuple[Tensor, Tensor]]:
    """Return consecutive batches of the given sizes."""
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def mlp(*widths: int, bias: bool = True, seed: int = 0) -> nn.Sequential:
    """Return linear layers with ReLU between them, in float64."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


class Odd(nn.Module):
    """A network of all cases that a fast path may compute wrongly.

    Groups, dilation, strides, circular padding, 1-d convolution, a layer used twice, tied weights, tokens with a linear
    layer, a residual sum, no batch normalisation.
    """

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
