"""The kernel that adds up group gradients and their squares, against the definition."""

from __future__ import annotations

import pytest
import torch
from kernels import KERNELS
from torch import Tensor

from pbt_bench.pruning.tuning import GROUP_POSITIONS
from pbt_bench.sparse import kernels


@pytest.mark.parametrize("instruction_set", KERNELS, ids=lambda found: found.set)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("groups", "rows", "width", "positions"),
    [(1, 1, 1, 1), (3, 5, 63, 2), (40, 37, 130, 16), (3, 4, 65, GROUP_POSITIONS), (5, 34, 200, 200)],
)
def test_sums_of_gradients_and_of_their_squares(
    instruction_set: kernels.Kernels,
    dtype: torch.dtype,
    groups: int,
    rows: int,
    width: int,
    positions: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On top of what is there, for every instruction set that is here; threads change no bit."""
    monkeypatch.setattr(kernels, "loaded", lambda: instruction_set)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    delta, columns, before = draw(groups, rows, positions), draw(groups, width, positions), draw(rows, width)
    found = []
    for threads in (1, 3):
        total, square = before.clone(), before.clone()
        kernels.call("group_sums", dtype, (total, square, delta, columns), groups, rows, width, positions, threads)
        found.append((total, square))
    own = delta.double() @ columns.double().transpose(1, 2)
    wanted = (before.double() + own.sum(0)).to(dtype), (before.double() + own.square().sum(0)).to(dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found[0], wanted, rtol=tolerance, atol=tolerance)
    for one, three in zip(*found, strict=True):
        assert torch.equal(one, three)
