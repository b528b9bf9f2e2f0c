"""Iterative pruning by autograd and full sorts, as the reference for the rounds of pbt-bench."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pbt_bench.models.prunable import prunable


def rounds_plainly(
    net: nn.Module,
    objective: Callable[[], Tensor],
    sparsity: float,
    rounds: int,
    regrow: bool = False,
    factor: Callable[[Tensor], Tensor] = lambda weight: weight,
) -> dict[str, Tensor]:
    """Compute masks by |factor(θ) · ∂objective/∂θ| in rounds of falling density (Tanaka et al. 2020, Alg. 1).

    The weights θ are restored at the end.
    """
    net.eval()
    weights = prunable(net)
    dense = {name: p.detach().clone() for name, p in weights.items()}
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in dense.items()}
    total = sum(p.numel() for p in dense.values())
    for index in range(1, rounds + 1):
        with torch.no_grad():
            for name, p in weights.items():
                p.copy_(dense[name] * masks[name])
        gradients = torch.autograd.grad(objective(), list(weights.values()))
        scores = [(factor(dense[name]) * g).abs() for name, g in zip(weights, gradients, strict=True)]
        if not regrow:
            scores = [s.masked_fill(~mask, -1) for s, mask in zip(scores, masks.values(), strict=True)]
        pruned = int((1 - (1 - sparsity) ** (index / rounds)) * total + (1e-9 if index == rounds else 0))
        kept = torch.ones(total, dtype=torch.bool)
        kept[torch.cat([s.flatten() for s in scores]).argsort(stable=True)[:pruned]] = False
        parts = kept.split([d.numel() for d in dense.values()])
        masks = {name: part.view_as(dense[name]) for name, part in zip(dense, parts, strict=True)}
    with torch.no_grad():
        for name, p in weights.items():
            p.copy_(dense[name])
    return masks
