"""Scores that are trained while the weights stay fixed (edge-popup)."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from pbt_bench.constraints import at_least
from pbt_bench.pruning.masks import quotas
from pbt_bench.pruning.plugins import statistic
from pbt_bench.pruning.task import Task, Tensors


@statistic(
    cite="Ramanujan et al. 2020, arXiv:1911.13299",
    per_sparsity=True,
    symbol=r"\vert s \vert",
    formula=r"s \leftarrow s - \eta\, \frac{\partial \ell(f(x;\, \theta \odot m), y)}{\partial m}\, \mathrm{sgn}(s), "
    r"\qquad m = \left[\vert s \vert \text{ is among the highest of its layer}\right]",
)
def popup_score(
    task: Task,
    *,
    score_epochs: Annotated[int, at_least(1)] = 100,
    score_learning_rate: Annotated[float, at_least(0.0)] = 0.1,
    score_momentum: Annotated[float, at_least(0.0)] = 0.9,
    score_weight_decay: Annotated[float, at_least(0.0)] = 1e-4,
) -> Tensors:
    """Train scores s for the sparsity of the run, and return |s|.

    The forward pass uses the weights with the highest |s|, the same density in every layer; the derivative by the mask
    is passed on to |s|. Scores begin as nn.Conv2d draws weights, and are trained by SGD with momentum, one step for
    every batch of the scoring data. The learning rate falls with the epochs e as (1 + cos(πe/E)) / 2.
    """
    generator = task.generator("popup")
    scores: dict[str, nn.Parameter] = {}
    for name, weight in task.parameters.items():
        drawn = torch.empty(weight.shape, dtype=torch.float64)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        scores[name] = nn.Parameter(drawn.to(weight.device, weight.dtype))
    assert task.kept is not None
    kept = quotas({name: tuple(s.shape) for name, s in scores.items()}, task.kept, "layer")
    optimizer = torch.optim.SGD(
        scores.values(), lr=score_learning_rate, momentum=score_momentum, weight_decay=score_weight_decay
    )
    for epoch in range(score_epochs):
        optimizer.param_groups[0]["lr"] = score_learning_rate * (1 + math.cos(math.pi * epoch / score_epochs)) / 2
        for inputs, targets in task.batches:
            masks = {name: highest(s.detach().abs(), kept[name]).requires_grad_() for name, s in scores.items()}
            with torch.enable_grad():
                masked = {name: task.parameters[name].detach() * mask for name, mask in masks.items()}
                logits = functional_call(task.model, masked, (inputs,)) / task.scoring.loss_temperature
                found = torch.autograd.grad(
                    F.cross_entropy(logits, targets), list(masks.values()), allow_unused=True, materialize_grads=True
                )
            for score, gradient in zip(scores.values(), found, strict=True):
                score.grad = gradient * score.detach().sign()
            optimizer.step()
    return {name: score.detach().abs() for name, score in scores.items()}


def highest(scores: Tensor, kept: int) -> Tensor:
    """Return a mask, as numbers, of the highest scores; of equal ones the first are left out."""
    order = scores.flatten().argsort(stable=True)
    flat = torch.zeros_like(scores).flatten()
    flat[order[len(order) - kept :]] = 1
    return flat.view(scores.shape)
