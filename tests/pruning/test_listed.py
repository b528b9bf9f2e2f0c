"""Convolutions by listed weights against the library's, and SynFlow by them against the plain algorithm."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernels import KERNELS
from rounds_plainly import rounds_plainly
from torch import Tensor, nn

import pbt_bench
from pbt_bench import native
from pbt_bench.models import build
from pbt_bench.pruning import listed
from pbt_bench.pruning.listed import Listed, convolve, fits, true
from pbt_bench.pruning.rounds import _at_most


@pytest.mark.parametrize("few", [0, 10**6])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"stride": (1, 2), "padding": (0, 2), "dilation": (2, 1)},
        {"padding": "same", "dilation": 2},
    ],
)
def test_convolution_and_its_gradients_equal_the_library(
    options: dict[str, Any], sparse: bool, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listed, "FEW", few)
    monkeypatch.setattr(listed, "FEWER", few if sparse else 0)
    monkeypatch.setattr(listed, "SPARSE", 0.0)
    monkeypatch.setattr(listed, "CHUNK", 50)
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.rand(shape, generator=generator).double() for shape in ((1, 5, 9, 8), (7, 5, 3, 3)))
    mask = torch.rand(weight.shape, generator=generator) < 0.3
    mask[2], mask[5], mask[:, 1], mask[:, 4] = False, False, False, False
    weight = weight * mask
    x.requires_grad_(), weight.requires_grad_()
    bias = torch.rand(7, generator=generator).double()
    places = true(mask)
    assert fits(x, weight, options)
    for times in (1, 2):
        given = Listed(weight, places)
        if times == 2:  # as rounds do: weights go, and stay in the list
            given.product(torch.rand(45, 4).double()) if native.takes(weight) else None
            with torch.no_grad():
                weight.view(-1)[places[[0, 3]]] = 0
            given.drop(torch.tensor([0, 3]))
        found = torch.full((len(places),), math.nan, dtype=torch.float64)
        result = convolve(x, weight, bias, options, given, lambda into=found: (into, False))
        expected = F.conv2d(x, weight, bias, **options)
        torch.testing.assert_close(result, expected, check_stride=True)  # with others torch's batch_norm goes wrong
        slope = torch.rand(expected.shape, generator=generator).double()
        (by_inputs,) = torch.autograd.grad(result, [x], slope)
        want = torch.autograd.grad(expected, [x, weight], slope)
        torch.testing.assert_close(by_inputs, want[0], check_stride=True)
        torch.testing.assert_close(found, want[1].flatten()[places])


@pytest.mark.parametrize(("options", "kinds"), [({"padding": 1}, 25), ({"padding": 1, "stride": 2}, 9), ({}, 9)])
def test_columns_that_are_equal_are_multiplied_once(
    options: dict[str, Any], kinds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    first, weight = (torch.rand(shape, generator=generator).double() for shape in ((4, 3, 3, 3), (7, 4, 3, 3)))
    x = F.conv2d(torch.ones(1, 3, 25, 26).double(), first, padding=1).requires_grad_()
    weight.requires_grad_()
    given, found, sizes = Listed(weight), torch.empty_like(weight), []
    gradient = given.gradient

    def counted(delta: Tensor, u: Tensor, into: Tensor, add: bool) -> None:
        sizes.append(u.shape[1])
        gradient(delta, u, into, add)

    monkeypatch.setattr(given, "gradient", counted)
    result = convolve(x, weight, None, options, given, lambda: (found, False))
    expected = F.conv2d(x, weight, **options)
    torch.testing.assert_close(result, expected)
    slope = torch.rand(expected.shape, generator=generator).double()
    (by_inputs,) = torch.autograd.grad(result, [x], slope)
    want = torch.autograd.grad(expected, [x, weight], slope)
    torch.testing.assert_close((by_inputs, found), want)
    assert sizes == [kinds]


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda kernels: kernels.set)
@pytest.mark.parametrize(
    ("rows", "width", "positions"), [(7, 301, 1), (6, 512, 4), (5, 260, 16), (1, 9, 3), (4, 300, 39), (3, 7, 9)]
)
@pytest.mark.parametrize("density", [None, 0.3, 0.01])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_kernels(
    kernels: native.Kernels,
    rows: int,
    width: int,
    positions: int,
    density: float | None,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every instruction set that is here, against three products; threads change no bit."""
    monkeypatch.setattr(native, "kernels", lambda: kernels)
    monkeypatch.setattr(listed, "SPARSE", 1.0)
    generator = torch.Generator().manual_seed(0)
    shapes = (rows, width), (rows, positions), (width, positions)
    weight, delta, u = (torch.rand(shape, generator=generator).to(dtype) for shape in shapes)
    mask = torch.rand(weight.shape, generator=generator) < (density or 2)
    weight *= mask
    given = Listed(weight[..., None], None if density is None else true(mask))
    wanted = (weight @ u, weight.t() @ delta, 2 * (delta @ u.t())[mask])
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        flow = torch.full(wanted[2].shape, math.nan, dtype=dtype)
        onward = given.backward(delta, u, flow, add=False)
        given.backward(delta, u, flow, add=True)
        results.append((given.product(u), onward, flow))
    torch.set_num_threads(before)
    torch.testing.assert_close(results[0], wanted)
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [0, 1, 63, 64, 1000])
def test_the_scores_at_most_a_limit(dtype: torch.dtype, size: int) -> None:
    """In order, with those equal to the limit, without NaN and what is not here; in any number type."""
    generator = torch.Generator().manual_seed(size)
    scores = torch.randint(0, 9, (size,), generator=generator).to(dtype)
    scores[::7] = math.nan
    here = torch.rand(size, generator=generator) < 0.7
    places, values = _at_most(scores, 4.0, here)
    wanted = ((scores <= 4) & here).nonzero().flatten()
    assert torch.equal(places, wanted)
    assert torch.equal(values, scores[wanted])


class Odd(nn.Module):
    """Groups, a shared weight, a residual sum, a weight that is used in plain sight, tokens, several images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, groups=4)
        self.line = nn.Conv1d(16, 12, 3, stride=2)
        self.tiles = nn.Conv2d(16, 12, 2)
        self.tokens = nn.Linear(12, 20)
        self.head = nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.twice(self.stem(x))))
        x = x + F.relu(self.twice(x)) * self.twice.weight.sum()
        x = self.grouped(x)
        halves = torch.cat(x.chunk(2, dim=3))
        tiles = self.tiles(halves).sum(0, keepdim=True).flatten(2).mean(2)
        lines = self.line(x.flatten(2)).transpose(1, 2)
        return self.head(self.tokens(lines).mean(1) + self.tokens(tiles))


@pytest.mark.parametrize("sparsity", [0.5, 0.98])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", ["odd", "resnet8", "vgg8"])
def test_synflow_equals_the_plain_algorithm(
    name: str, sparsity: float, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the compiled kernels are not there."""
    if not compiled:
        monkeypatch.setattr(native, "kernels", lambda: None)
    torch.manual_seed(0)
    model = Odd() if name == "odd" else build(name, 3, 10, seed=0)
    data = [(torch.randn(2, 3, 10, 10), torch.zeros(2).long())]
    found = pbt_bench.prune(model.eval(), data, method="synflow", sparsity=sparsity, rounds=60)
    model.double()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(tensor.abs())
    expected = rounds_plainly(model, lambda: model(torch.ones(1, 3, 10, 10).double()).sum(), sparsity, 60)
    for name in expected:
        assert torch.equal(found[name], expected[name]), name
