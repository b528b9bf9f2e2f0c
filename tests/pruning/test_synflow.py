"""SynFlow keeps exactly the weights that plain autograd keeps, on every family of networks."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from networks import published, published_values
from rounds_plainly import rounds_plainly
from torch import Tensor, nn

import pbt_bench
from pbt_bench.models import build
from pbt_bench.sparse import kernels

SPARSITIES = [0.5, 0.9, 0.98, 0.99, 0.998, 0.999, 0.9995]


class GroupsAndTies(nn.Module):
    """Groups, a convolution used twice, two linear layers of one weight, a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, groups=4)
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.twice(self.stem(x))))
        x = x + F.relu(self.twice(x))
        x = F.relu(self.grouped(x)).mean((2, 3))
        return self.head(F.relu(self.second(F.relu(self.first(x)))))


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "mobilenet":
        return torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.25).eval()
    return (GroupsAndTies() if name == "groups" else build(name, 3, 10, seed=0)).eval()


def data(side: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(2, 3, side, side), torch.zeros(2).long())]


def plainly(model: nn.Module, side: int, method: str, sparsity: float, rounds: int) -> dict[str, Tensor]:
    """Compute masks by autograd in float64 over absolute (or squared) parameters, and by full sorts."""
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.square() if method == "synflow_l2" else parameter.abs())
        for buffer in model.buffers():
            buffer.abs_()
    factor = torch.sqrt if method == "synflow_l2" else torch.abs  # of θ² and of |θ|: |θ| in both cases

    def flow() -> Tensor:
        return model(torch.ones(1, 3, side, side).double()).sum()  # type: ignore[no-any-return]

    return rounds_plainly(model, flow, sparsity, rounds, factor=factor)


def assert_same_masks(model: nn.Module, side: int, method: str, sparsity: float, rounds: int) -> None:
    """Compare two calls with the plain algorithm."""
    expected = plainly(model, side, method, sparsity, rounds)
    for _ in range(2):
        found = pbt_bench.prune(model, data(side), method=method, sparsity=sparsity, rounds=rounds)
        different = {layer: n for layer in expected if (n := int((found[layer] != expected[layer]).sum()))}
        assert not different


LONG = pytest.param(100, marks=pytest.mark.long)
FAMILIES = [("resnet8", 8), ("resnet20", 8), ("resnet20-projection", 8), ("vgg8", 8), ("mobilenet", 32), ("groups", 8)]


@pytest.mark.parametrize("rounds", [10, LONG])
@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize(("name", "side"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_masks_equal_plain_autograd(name: str, side: int, sparsity: float, rounds: int) -> None:
    assert_same_masks(network(name), side, "synflow", sparsity, rounds)


@pytest.mark.parametrize("sparsity", [0.98, *(pytest.param(s, marks=pytest.mark.long) for s in SPARSITIES)])
def test_masks_of_vgg16_equal_plain_autograd(sparsity: float) -> None:
    assert_same_masks(network("vgg16"), 32, "synflow", sparsity, 2)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_masks_without_compiled_kernels(sparsity: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "loaded", lambda: None)
    assert_same_masks(network("resnet8"), 8, "synflow", sparsity, 20)


@pytest.mark.parametrize("sparsity", [0.5, 0.98, 0.9995])
@pytest.mark.parametrize("method", ["synflow", "synflow_l2"])
@pytest.mark.parametrize("name", ["resnet8", "resnet20", "groups"])
def test_masks_after_training_has_killed_a_layer(name: str, method: str, sparsity: float) -> None:
    """Zero weights block every path through the layer; the shortcuts around it remain."""
    model = network(name)
    weights = dict(model.named_parameters())
    killed = weights["grouped.weight"][:8] if name == "groups" else weights["stages.1.0.conv2.weight"]
    with torch.no_grad():
        killed.zero_()
    assert_same_masks(model, 8, method, sparsity, 10)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_squared_masks_equal_plain_autograd(sparsity: float) -> None:
    assert_same_masks(network("resnet8"), 8, "synflow_l2", sparsity, 20)


@pytest.mark.parametrize("activation", [nn.ReLU6, nn.Hardtanh, nn.Hardsigmoid])
@pytest.mark.parametrize("stride", [1, 4])
def test_a_saturated_activation_gives_zero_scores(activation: type[nn.Module], stride: int) -> None:
    """Version 0.1 returned uninitialised memory here: no output of the convolution has a gradient."""
    first = nn.Conv2d(3, 16, 3, padding=1, stride=stride)
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(first, activation(), *pool, nn.Linear(16, 4))
    nn.init.ones_(first.weight)
    scores = pbt_bench.score(model, data(8), method="synflow")
    assert not scores["0.weight"].any()
    assert bool((scores["4.weight"] > 0).all())


NETS = ["conv", "convbn", "res"]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("method", ["synflow", "synflow_l2"])
def test_scores_equal_the_original(net: str, method: str) -> None:
    model, x, y = published(net)
    if method == "synflow_l2":  # the original takes the sign of running means along: compare at initialization
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
    found = pbt_bench.score(model, [(x, y)], method=method)
    for name, expected in published_values(method)[f"score/{net}"].items():
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("sparsity", ["0.5", "0.9", "0.98", "0.995"])
def test_masks_of_100_rounds_equal_the_original(net: str, sparsity: str) -> None:
    model, x, y = published(net)
    found = pbt_bench.prune(model, [(x, y)], method="synflow", sparsity=float(sparsity))
    for name, expected in published_values("synflow")[f"mask/{net}.100_rounds.{sparsity}"].items():
        assert torch.equal(found[name], expected), name


def test_kept_weights_of_resnet8_equal_stored_ones() -> None:
    """Version 0.1 kept other weights: J = 0.59."""
    found = pbt_bench.prune(build("resnet8", 3, 10, 0), data(8), method="synflow", sparsity=0.998)
    for name, expected in published_values("synflow")["kept/resnet8.8px.0.998"].items():
        assert torch.equal(found[name].flatten().nonzero().flatten(), expected.long()), name
