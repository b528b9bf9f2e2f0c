"""Layers whose scores are all exactly zero are named; a mask is never made of nothing."""

from __future__ import annotations

import math

import pytest
import torch
from networks import batches, golden, scored_methods
from torch import Tensor, nn

import pbt_bench
from pbt_bench.errors import RequestError, ScoreError, note_once
from pbt_bench.pruning.plugins import pruners

METHODS = scored_methods()
RANDOM = [name for name in METHODS if pruners()[name].needs == ("uniform",)]
WITHOUT_GRADIENTS = ["gmp", "lamp", "magnitude", "phew", "ria", "wanda", *RANDOM]
X, Y = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10
SILENT = "position decides"


@pytest.fixture(autouse=True)
def unsaid() -> None:
    """Every note is new."""
    note_once.cache_clear()
    torch.manual_seed(0)


class Frozen(nn.Module):
    """A backbone that runs without gradients, and a head that need not."""

    def __init__(self, whole: bool = False) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(256, 10)
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.backbone(x)
            if self.whole:
                return self.head(x)
        return self.head(x)


@pytest.mark.parametrize("method", METHODS)
def test_a_backbone_without_gradients_is_named(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    pbt_bench.prune(Frozen(), [(X, Y)], method=method, sparsity=0.5, rounds=3)
    told = [line for line in capsys.readouterr().err.splitlines() if SILENT in line]
    expected = (
        f"note: method {method!r} scores every weight of a layer exactly zero, so position decides there: "
        "backbone.0.weight (no gradient reaches it)"
    )
    assert told == ([] if method in WITHOUT_GRADIENTS else [expected])


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(WITHOUT_GRADIENTS)))
def test_a_network_without_gradients_is_one_error(method: str) -> None:
    with pytest.raises((ScoreError, RequestError), match="no gradient reaches") as caught:
        pbt_bench.prune(Frozen(whole=True), [(X, Y)], method=method, sparsity=0.5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("norm", [nn.LayerNorm([3, 8, 8]), nn.GroupNorm(1, 3), nn.InstanceNorm2d(3)])
@pytest.mark.parametrize("method", ["synflow", "synflow_l2"])
def test_synaptic_flow_behind_a_normalisation_of_the_input_is_an_error(method: str, norm: nn.Module) -> None:
    """Inputs of ones have no spread: nothing flows."""
    net = nn.Sequential(norm, nn.Flatten(), nn.Linear(192, 8, bias=False), nn.ReLU(), nn.Linear(8, 10))
    with pytest.raises(ScoreError) as caught:
        pbt_bench.prune(net, [(X, Y)], method=method, sparsity=0.5)
    assert str(caught.value) == (
        f"method {method!r}: every score is exactly zero, so nothing ranks the weights: "
        "2.weight (no gradient reaches it), 4.weight (no gradient reaches it)"
    )


def test_synaptic_flow_between_normalisations_names_the_layer(capsys: pytest.CaptureFixture[str]) -> None:
    net = nn.Sequential(nn.Flatten(), nn.LayerNorm(192), nn.Linear(192, 8), nn.GELU(), nn.LayerNorm(8))
    net.append(nn.Linear(8, 10))
    pbt_bench.prune(net, [(X, Y)], method="synflow", sparsity=0.5, rounds=3)
    assert "'synflow' scores every weight of a layer exactly zero" in (told := capsys.readouterr().err)
    assert "2.weight (no gradient reaches it)\n" in told


@pytest.mark.parametrize("width", [1, 32])
@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Softmin(1), nn.LayerNorm(10), nn.GroupNorm(1, 10)])
@pytest.mark.parametrize("method", ["synflow", "synflow_l2"])
def test_synaptic_flow_of_a_constant_sum_is_an_error(method: str, last: nn.Module, width: int) -> None:
    """The gradient of a sum of shares or of normalised values is a rounding error, where it is not exactly zero."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10), last)
    net[1].weight.data.div_(
        192 / width
    )  # a softmax is saturated with the larger weights, and not with the smaller ones
    with pytest.raises(ScoreError, match=r"every score is exactly zero.*: 1\.weight \(no gradient reaches it\)"):
        pbt_bench.prune(net, [(X, Y)], method=method, sparsity=0.9)


@pytest.mark.parametrize("last", [nn.LogSoftmax(1), nn.Sigmoid(), nn.Tanh(), nn.LayerNorm(10)])
def test_synaptic_flow_that_is_small_is_no_rounding_error(last: nn.Module) -> None:
    """Where the sum does depend on the weights, however little, they are scored."""
    if isinstance(last, nn.LayerNorm):
        nn.init.uniform_(last.weight)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 10), last)
    net[1].weight.data.div_(20)
    assert all(bool(s.all()) for s in pbt_bench.score(net, [(X, Y)], method="synflow").values())
    saturated = nn.Sequential(nn.Linear(8, 1, bias=False), nn.Sigmoid())
    saturated[0].weight.data.fill_(20 / 8)
    (score,) = pbt_bench.score(saturated, [(torch.ones(1, 8), torch.zeros(1).long())], method="synflow").values()
    assert float(score.sum()) == pytest.approx(20 * math.exp(-20), rel=1e-4)
    deep = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(60)), nn.Linear(8, 3))
    scores = pbt_bench.score(deep, [(torch.ones(3, 8), torch.arange(3))], method="synflow_l2")
    assert 0 < sum(float(s.sum()) for s in scores.values()) < 1e-20
    assert all(bool(s.all()) for s in scores.values())


class LowRank(nn.Module):
    """A layer with an update B·A, B = 0 at first (LoRA)."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.a, self.b = nn.Linear(192, 10), nn.Linear(192, 4), nn.Linear(4, 10)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.base(x) + self.b(self.a(x))


@pytest.mark.parametrize(
    ("method", "layers"),
    [
        ("snip", ["a.weight (no gradient reaches it), b.weight (its weights are all zero)"]),
        ("grad_norm", ["a.weight (no gradient reaches it)"]),
        ("magnitude", ["b.weight (its weights are all zero)"]),
        ("synflow", ["a.weight (no gradient reaches it), b.weight (its weights are all zero)"]),
        ("random", []),
        ("phew", []),
    ],
)
def test_weights_that_are_zero_are_told_from_gradients_that_are(
    method: str, layers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pbt_bench.score(LowRank(), [(X, Y)], method=method)
    told = [line.partition("there: ")[2] for line in capsys.readouterr().err.splitlines() if SILENT in line]
    assert told == layers


def test_a_network_of_zeros_has_no_magnitudes() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    net[1].weight.data.zero_()
    with pytest.raises(ScoreError, match=r"method 'magnitude': every score is exactly zero.*1\.weight \(its weights"):
        pbt_bench.prune(net, [(X, Y)], method="magnitude", sparsity=0.5)
    assert pbt_bench.prune(net, [(X, Y)], method="random", sparsity=0.5)["1.weight"].any()


class Auxiliary(nn.Module):
    """A classifier with parts that only training uses, as Inception's."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.aux = nn.Linear(192, 10), nn.ModuleList(nn.Linear(10, 10) for _ in range(30))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.flatten(1))


def test_many_layers_are_one_line_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        torch.manual_seed(seed)
        pbt_bench.score(Auxiliary(), [(X, Y)], method="snip")
    (line,) = capsys.readouterr().err.splitlines()
    assert "aux.0.weight (no gradient reaches it), aux.1.weight" in line
    assert line.endswith("aux.4.weight (no gradient reaches it) and 25 more")


def test_layers_that_later_rounds_empty_are_not_named(capsys: pytest.CaptureFixture[str]) -> None:
    net, x, y, _ = golden()
    masks = pbt_bench.prune(net, batches(x, y, 48), method="iterative_snip", sparsity=0.999, rounds=10)
    assert not all(bool(mask.any()) for mask in masks.values())
    assert SILENT not in capsys.readouterr().err


def test_the_first_walk_is_no_zero(capsys: pytest.CaptureFixture[str]) -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 3))
    scores = pbt_bench.score(net, [(torch.ones(3, 1), torch.arange(3))], method="phew")
    assert scores["0.weight"].tolist() == [[-1.0]]
    assert capsys.readouterr().err == ""
