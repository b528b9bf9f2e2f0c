"""Scores and masks equal those of the methods' own published code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import batches, golden
from torch import Tensor

import pbt_bench
from pbt_bench.pruning.masks import Ranking

FISHER = [
    (f"score/{method}.b{size}", method, {"fisher_batch_size": size})
    for method in ("grad_norm", "fisher_diagonal", "fisher_pruning", "fbss")
    for size in (1, 8)
]
CASES = [
    *FISHER,
    ("score/fts.b1", "fts", {}),
    ("score/fts.b8", "fts", {"fisher_batch_size": 8}),
    ("score/snip.fts_repo", "snip", {}),
    ("score/snip.synflow_repo", "snip", {}),
    ("score/grasp.synflow_repo", "grasp", {"temperature": 200.0}),
    ("score/magnitude", "magnitude", {}),
    ("score/synflow.one_round", "synflow", {}),
]


def normalised(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Divided by the global L1 norm; the NaN of published FBSS, where F = 0, as 0."""
    scores = {name: s.double().nan_to_num(0) for name, s in scores.items()}
    total = sum(float(s.abs().sum()) for s in scores.values())
    return {name: s / total for name, s in scores.items()}


@pytest.mark.parametrize("sizes", [(48,), (20, 15, 13)])
@pytest.mark.parametrize(("case", "method", "options"), CASES, ids=[c[0] for c in CASES])
def test_scores_equal_the_original(case: str, method: str, options: dict[str, Any], sizes: tuple[int, ...]) -> None:
    net, x, y, cases = golden()
    ours = normalised(pbt_bench.score(net, batches(x, y, *sizes), method=method, **options))
    theirs = normalised(cases[case])
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        error = (ours[name] - expected).norm() / expected.norm()
        assert error < 1e-4, f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9, 0.95, 0.98, 0.99])
@pytest.mark.parametrize(("case", "method", "options"), CASES, ids=[c[0] for c in CASES])
def test_kept_sets_equal_the_original(case: str, method: str, options: dict[str, Any], sparsity: float) -> None:
    net, x, y, cases = golden()
    ours = pbt_bench.score(net, batches(x, y, 20, 28), method=method, **options)
    flat = torch.cat([s.flatten() for s in normalised(cases[case]).values()])
    kept = torch.cat([m.flatten() for m in Ranking(ours, "global").masks(sparsity).values()])
    threshold = flat.sort(descending=True).values[int(kept.sum()) - 1]
    margin = 1e-4 * threshold.abs()
    assert bool((flat[kept] >= threshold - margin).all()), "a kept weight is below the original's threshold"
    assert bool((flat[~kept] <= threshold + margin).all()), "a pruned weight is above the original's threshold"


@pytest.mark.parametrize(("density", "sparsity"), [("0.2", 0.8), ("0.05", 0.95), ("0.02", 0.98)])
def test_synflow_masks_of_100_rounds_equal_the_original(density: str, sparsity: float) -> None:
    net, x, y, cases = golden()
    masks = pbt_bench.prune(net, batches(x, y, 48), method="synflow", sparsity=sparsity)
    for name, expected in cases[f"mask/synflow.100_rounds.density_{density}"].items():
        assert torch.equal(masks[name], expected), name


def test_inverted_grasp_is_not_ours() -> None:
    """Exclude finding F5: published copies keep the lowest θ·Hg."""
    net, x, y, cases = golden()
    ours = torch.cat([s.flatten() for s in pbt_bench.score(net, batches(x, y, 48), method="grasp").values()])
    inverted = torch.cat([s.flatten() for s in cases["score/grasp.fts_repo"].values()])
    assert torch.corrcoef(torch.stack([ours.double(), inverted.double()]))[0, 1] < -0.5
