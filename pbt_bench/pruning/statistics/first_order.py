"""Gradient and empirical Fisher diagonal out of one forward and backward pass over the scoring data."""

from __future__ import annotations

from collections.abc import Collection

import torch.nn.functional as F
from torch import Tensor

from pbt_bench.errors import RequestError
from pbt_bench.pruning import batchnorm
from pbt_bench.pruning.persample import group_sums
from pbt_bench.pruning.statistics import Task, Tensors, provides

_FISHER = "empirical Fisher diagonal; Navarrete et al. 2025, arXiv:2502.11450, Eq. 8"


@provides(data=True, gradient="mean gradient of the cross-entropy", fisher_diagonal=_FISHER)
def first_order(task: Task, wanted: Collection[str]) -> dict[str, Tensors]:
    """g = (1/N) Σᵢ gᵢ and F = (1/N) Σ_groups (Σ_{i in group} gᵢ)², gᵢ the gradient of sample i's cross-entropy.

    The cross-entropy is that of logits / `loss_temperature`.
    A group is `fisher_batch_size` consecutive samples, b of them: F = b · mean of squared group-mean gradients;
    b = 1 gives the per-sample empirical Fisher diagonal. The last group may be smaller. Both are always computed
    the same way, so the gradient has the same bits whether or not somebody asks for the Fisher diagonal too.
    Raises RequestError for F of dependent samples (batchnorm = "batch", or layers without running statistics)
    unless a group is a whole batch.
    """
    size = task.scoring.fisher_batch_size
    dependent = batchnorm.dependent(task.model, task.scoring.batchnorm)
    if dependent:
        longest = max(len(targets) for _, targets in task.batches)
        if "fisher_diagonal" in wanted and size != longest:
            raise RequestError(
                "fisher_diagonal with batch normalisation by the batch: its samples depend on each other, so a group "
                f"must be a whole batch; set fisher_batch_size = batch_size (they are {size} and {longest})"
            )
        size = longest

    def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits / task.scoring.loss_temperature, targets, reduction="sum")

    task.require_only(task.parameters)
    sums, squares = group_sums(
        task.model, task.parameters, task.batches, size, cross_entropy, dependent, task.scoring.chunk
    )
    values = {"gradient": sums, "fisher_diagonal": squares}
    return {name: {key: t / task.samples for key, t in values[name].items()} for name in wanted}
