"""The kernel that adds up group gradients and their squares, against the definition."""

from __future__ import annotations

import pytest
import torch
from kernels import KERNELS
from torch import Tensor

from pbt_bench import native
from pbt_bench.pruning.persample import POSITIONS


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda kernels: kernels.set)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("groups", "rows", "width", "positions"),
    [(1, 1, 1, 1), (3, 5, 63, 2), (40, 37, 130, 16), (3, 4, 65, POSITIONS), (5, 34, 200, 200)],
)
def test_sums_of_gradients_and_of_their_squares(
    kernels: native.Kernels,
    dtype: torch.dtype,
    groups: int,
    rows: int,
    width: int,
    positions: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On top of what is there, for every instruction set that is here; threads change no bit."""
    monkeypatch.setattr(native, "kernels", lambda: kernels)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    delta, columns, before = draw(groups, rows, positions), draw(groups, width, positions), draw(rows, width)
    found = []
    for threads in (1, 3):
        total, square = before.clone(), before.clone()
        native.call("group_sums", dtype, (total, square, delta, columns), groups, rows, width, positions, threads)
        found.append((total, square))
    own = delta.double() @ columns.double().transpose(1, 2)
    wanted = (before.double() + own.sum(0)).to(dtype), (before.double() + own.square().sum(0)).to(dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found[0], wanted, rtol=tolerance, atol=tolerance)
    for one, three in zip(*found, strict=True):
        assert torch.equal(one, three)
