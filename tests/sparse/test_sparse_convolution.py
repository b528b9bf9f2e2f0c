"""Tests that sparse convolutions equal the convolutions of PyTorch, for many geometries."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F
from kernels import KERNELS
from torch import Tensor

from pbt_bench.sparse import kernels, memory_format, sparse_convolution

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
GEOMETRIES = [  # inputs, channels, kernel, stride, padding, dilation
    ((9,), (3, 5), (3,), (1,), (1,), (1,)),
    ((11,), (4, 2), (4,), (3,), (2,), (2,)),
    ((8, 8), (5, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
    ((8, 7), (5, 3), (3, 3), (2, 2), (1, 1), (1, 1)),
    ((9, 8), (2, 3), (1, 1), (2, 2), (0, 0), (1, 1)),
    ((12, 10), (3, 4), (5, 3), (3, 2), (2, 4), (2, 3)),
    ((4, 4), (3, 4), (7, 7), (2, 2), (3, 3), (1, 1)),
    ((5, 4, 6), (2, 3), (3, 2, 3), (1, 2, 1), (1, 0, 2), (1, 1, 2)),
]

pytestmark = pytest.mark.skipif(kernels.loaded() is None, reason="no C compiler was there at installation")


def test_the_kernels_are_there_where_a_compiler_is() -> None:
    """Check that the kernels exist, because an installation without them is many times slower."""
    assert shutil.which("cc") is None or kernels.loaded() is not None


def case(geometry: tuple[tuple[int, ...], ...], n: int, density: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return inputs, weight, mask and vector of kept weights, with gradients."""
    size, (columns, rows), kernel, *_ = geometry
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, columns, *size, generator=generator, dtype=dtype)
    w = torch.randn(rows, columns, *kernel, generator=generator, dtype=dtype)
    mask = torch.rand(w.shape, generator=generator) < density
    return x.requires_grad_(), w.requires_grad_(), mask, w.detach()[mask].requires_grad_()


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize(
    ("n", "density", "dtype"), [(70, 0.3, torch.float64), (150, 0.05, torch.float32), (3, 1, torch.float64)]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_and_gradients(
    geometry: tuple[tuple[int, ...], ...], n: int, density: float, dtype: torch.dtype, threads: int
) -> None:
    """Compare with PyTorch for batches of less than one, one and several blocks, with and without a remainder."""
    x, w, mask, vector = case(geometry, n, density, dtype)
    *_, stride, padding, dilation = geometry
    expected = CONVOLUTIONS[len(stride)](x, w * mask, None, stride, padding, dilation)
    delta = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    expected.backward(delta)
    pattern = sparse_convolution.Pattern(
        mask.nonzero(), torch.arange(int(mask.sum())), w.shape, x.shape[2:], (stride, padding, dilation)
    )
    mine = x.detach().requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = sparse_convolution.convolve(memory_format.move(mine, memory_format.batch_last(x.dim())), vector, pattern)
        assert memory_format.is_batch_last(out)
        out.backward(delta)
    finally:
        torch.set_num_threads(before)
    assert w.grad is not None
    for ours, theirs in ((out, expected), (mine.grad, x.grad), (vector.grad, w.grad[mask])):
        assert ours is not None
        assert theirs is not None
        error = (ours - theirs).abs().max() / theirs.abs().max()
        assert error < (1e-13 if dtype == torch.float64 else 1e-5)


def test_threads_change_no_bit() -> None:
    """Check that the order of every sum does not depend on the number of threads."""
    x, w, mask, vector = case(GEOMETRIES[2], 100, 0.3, torch.float32)
    pattern = sparse_convolution.Pattern(
        mask.nonzero(), torch.arange(len(vector)), w.shape, (8, 8), ((1, 1), (1, 1), (1, 1))
    )
    found: list[Tensor] = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        x.grad = vector.grad = None
        out = sparse_convolution.convolve(memory_format.move(x, memory_format.batch_last(4)), vector, pattern)
        out.square().sum().backward()
        assert x.grad is not None
        assert vector.grad is not None
        found.append(torch.cat([out.flatten(), x.grad.flatten(), vector.grad]))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("instruction_set", KERNELS, ids=lambda found: found.set)
def test_every_instruction_set_that_is_here(instruction_set: kernels.Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Test the kernels of all supported instruction sets, not only of the widest."""
    monkeypatch.setattr(kernels, "loaded", lambda: instruction_set)
    test_outputs_and_gradients(GEOMETRIES[3], 75, 0.3, torch.float32, 1)


def test_orders_of_memory() -> None:
    """Check that moving, selecting and replacing channels keeps the values and the requested memory format."""
    x = torch.randn(40, 12, 5, 6)
    index = torch.tensor([1, 4, 11])
    for to in (memory_format.batch_last(4), memory_format.channels_last(4), (0, 1, 2, 3)):
        moved = memory_format.move(x, to)
        assert memory_format.order(moved) == to
        assert torch.equal(moved, x)
        for back in (memory_format.batch_last(4), memory_format.channels_last(4)):
            assert torch.equal(memory_format.move(moved, back), x)
        some = memory_format.select(moved, index)
        assert memory_format.order(some) == to
        assert torch.equal(some, x[:, index])
        assert torch.equal(memory_format.put(moved.clone(), index, some * 2)[:, index], x[:, index] * 2)
