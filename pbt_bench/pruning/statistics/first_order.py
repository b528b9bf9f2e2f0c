"""Gradient and empirical Fisher diagonal, from one forward and backward pass over the scoring data."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pbt_bench.errors import RequestError
from pbt_bench.pruning import batchnorm
from pbt_bench.pruning.group_gradients import group_sums
from pbt_bench.pruning.plugins import statistic
from pbt_bench.pruning.task import Task, Tensors, shared_pass


@statistic(
    cite="mean gradient of the cross-entropy",
    symbol="g",
    formula=r"g = \frac{1}{N} \sum_{i=1}^{N} g_i, \qquad "
    r"g_i = \frac{\partial \ell(f(x_i;\, \theta), y_i)}{\partial \theta}",
)
def gradient(task: Task) -> Tensors:
    """Return g = (1/N) Σᵢ gᵢ, with gᵢ the gradient of the cross-entropy of logits / `loss_temperature` of sample i."""
    return first_order(task)[0]


@statistic(
    cite="empirical Fisher diagonal; Navarrete et al. 2025, arXiv:2502.11450, Eq. 8",
    symbol="F",
    formula=r"F = \frac{1}{N} \sum_{G} \left( \sum_{i \in G} g_i \right)^2, \qquad |G| = \mathrm{fisher\_batch\_size}",
)
def fisher_diagonal(task: Task) -> Tensors:
    """Return F = (1/N) Σ_groups (Σ_{i in group} gᵢ)², with gᵢ as for `gradient`.

    A group is `fisher_batch_size` consecutive samples, b of them: F = b · mean of squared group-mean gradients;
    b = 1 gives the per-sample empirical Fisher diagonal. The last group may be smaller.
    Raises RequestError if samples depend on each other (batchnorm = "batch", or layers without running statistics)
    and a group is not a whole batch.
    """
    size, longest = task.scoring.fisher_batch_size, max(len(targets) for _, targets in task.batches)
    if size != longest and batchnorm.dependent(task.model, task.scoring.batchnorm):
        raise RequestError(
            "fisher_diagonal with batch normalisation by the batch: its samples depend on each other, so a group "
            f"must be a whole batch; set fisher_batch_size = batch_size (they are {size} and {longest})"
        )
    return first_order(task)[1]


@shared_pass
def first_order(task: Task) -> tuple[Tensors, Tensors]:
    """Return gradient and Fisher diagonal.

    Both are always computed, so that the gradient has the same bits whether the Fisher diagonal is used or not.
    """
    scoring, size = task.scoring, task.scoring.fisher_batch_size
    dependent = batchnorm.dependent(task.model, scoring.batchnorm)
    if dependent:
        size = max(len(targets) for _, targets in task.batches)

    def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits / scoring.loss_temperature, targets, reduction="sum")

    sums, squares = group_sums(task.model, task.parameters, task.batches, size, cross_entropy, dependent, scoring.chunk)
    for tensor in (*sums.values(), *squares.values()):
        tensor /= task.samples
    return sums, squares
