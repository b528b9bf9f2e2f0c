"""Tests that every compiled kernel writes its whole output, for sizes 0, 1, odd and large."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kernels import KERNELS
from torch import Tensor

from pbt_bench.pruning.tuning import GROUP_POSITIONS
from pbt_bench.sparse import kernels, memory_format, sparse_convolution

SIZES = [0, 1, 7, 300]
DTYPES = [torch.float32, torch.float64]

pytestmark = [
    pytest.mark.usefixtures("nan_memory"),
    pytest.mark.skipif(kernels.loaded() is None, reason="no C compiler was there at installation"),
    pytest.mark.parametrize("dtype", DTYPES),
    pytest.mark.parametrize("instruction_set", KERNELS, ids=lambda found: found.set),
]


@pytest.fixture(autouse=True)
def use(instruction_set: kernels.Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Select an instruction set."""
    monkeypatch.setattr(kernels, "loaded", lambda: instruction_set)


def draw(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def close(found: Tensor, expected: Tensor) -> None:
    tolerance = 1e-4 if found.dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("rows", SIZES)
def test_transpose(rows: int, columns: int, dtype: torch.dtype) -> None:
    x = draw(rows, columns, dtype=dtype)
    found = torch.empty(columns, rows, dtype=dtype)
    sparse_convolution.transpose(found, x, rows, columns)
    assert torch.equal(found, x.t())


@pytest.mark.parametrize("positions", [0, 1, 7, GROUP_POSITIONS])
@pytest.mark.parametrize("width", [1, 65])
@pytest.mark.parametrize("rows", [1, 33])
@pytest.mark.parametrize("groups", [0, 1, 19])
def test_group_sums(groups: int, rows: int, width: int, positions: int, dtype: torch.dtype) -> None:
    delta, u = draw(groups, rows, positions, dtype=dtype), draw(groups, width, positions, dtype=dtype)
    total, square = torch.zeros(rows, width, dtype=dtype), torch.zeros(rows, width, dtype=dtype)
    kernels.call("group_sums", dtype, (total, square, delta, u), groups, rows, width, positions, 2)
    own = delta @ u.transpose(1, 2)
    close(total, own.sum(0))
    close(square, own.square().sum(0))


@pytest.mark.parametrize("kept", ["none", "one", "one row", "all"])
@pytest.mark.parametrize(("rows", "columns", "side"), [(1, 1, 1), (5, 3, 4), (40, 70, 3)])
@pytest.mark.parametrize("n", [0, 1, 7, 130])
def test_sparse_convolution(n: int, rows: int, columns: int, side: int, kept: str, dtype: torch.dtype) -> None:
    """Check the output and the gradients of inputs and weights, also if no position has a gradient."""
    weight = draw(rows, columns, 3, 3, dtype=dtype)
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    if kept == "one":
        mask[-1, -1, 1, 1] = True
    elif kept == "one row":
        mask[rows // 2] = True
    elif kept == "all":
        mask[:] = True
    x = draw(n, columns, side, side, dtype=dtype)
    geometry = ((1, 1), (1, 1), (1, 1))
    pattern = sparse_convolution.Pattern(
        mask.nonzero(), torch.arange(int(mask.sum())), weight.shape, (side, side), geometry
    )
    for delta in (draw(n, rows, side, side, dtype=dtype), torch.zeros(n, rows, side, side, dtype=dtype)):
        mine, vector = x.clone().requires_grad_(), weight[mask].requires_grad_()
        out = sparse_convolution.convolve(memory_format.move(mine, memory_format.batch_last(4)), vector, pattern)
        found = torch.autograd.grad(out, (mine, vector), delta)
        theirs, whole = x.clone().requires_grad_(), weight.clone().requires_grad_()
        expected = F.conv2d(theirs, whole * mask, padding=1)
        wanted = torch.autograd.grad(expected, (theirs, whole), delta)
        close(out, expected)
        close(found[0], wanted[0])
        close(found[1], wanted[1][mask])
