"""Tests that the optimizer on the vector of kept weights makes the same updates as on whole tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pbt_bench.data import datasets
from pbt_bench.data.run_data import prepare
from pbt_bench.models import build
from pbt_bench.pruning.diagnosis import all_kept, realised_sparsity
from pbt_bench.sparse import tuning
from pbt_bench.sparse.kept_weights import KeptWeights
from pbt_bench.spec import Recipe
from pbt_bench.training.stepper import Stepper

pytestmark = pytest.mark.usefixtures("nan_memory")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    ],
)
def test_kept_weights_are_updated_as_in_the_whole(
    layout: torch.memory_format, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
) -> None:
    torch.manual_seed(0)
    mask = torch.rand(8, 6, 3, 3) < 0.1
    start = (torch.randn(8, 6, 3, 3) * mask).to(memory_format=layout)
    whole, part = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    kept = KeptWeights(part, mask)
    first, second = make([whole]), make([kept.vector])
    for _ in range(4):
        gradient = torch.randn(8, 6, 3, 3)  # contiguous, also if the weight is not
        whole.grad, part.grad = gradient.clone(), gradient.clone()
        second.zero_grad()
        first.step()
        whole.data.mul_(mask)
        kept.read_gradient()
        second.step()
        kept.write()
        assert part.grad is None
        assert torch.equal(part.data, whole.data)
    part.data.mul_(2)
    kept.read()
    assert torch.equal(kept.vector.data.sort().values, part.data[mask].sort().values)


def test_a_sparse_network_is_trained_on_kept_weights_to_the_bits_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "LARGE_TENSOR", 0)
    data = prepare(datasets()["digits"].load(Path("nowhere")), 0.1, 0, torch.device("cpu"))
    results: list[dict[str, Tensor]] = []
    for sparse in (True, False):
        model = build("vgg8", 1, 10, seed=0)
        generator = torch.Generator().manual_seed(1)
        masks = all_kept(model, True)
        masks = {n: torch.rand(m.shape, generator=generator) < (0.05 if m.ndim == 4 else 0.6) for n, m in masks.items()}
        stepper = Stepper(model, masks, data, Recipe(execution="auto" if sparse else "dense"), 0, "train")
        assert sparse == bool(stepper._kept)
        stepper.epoch(1)
        realised_sparsity(dict(model.named_parameters()), masks)  # raises if a pruned weight is not zero
        results.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values(), strict=True))
