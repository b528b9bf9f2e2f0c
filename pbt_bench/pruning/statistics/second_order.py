"""Statistics with second derivatives of the loss."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F

from pbt_bench.pruning.statistics import Task, Tensors, provides


@provides(data=True, hessian_gradient="Wang et al. 2020, arXiv:2002.07376, Eq. 4")
def hessian_gradient(task: Task, wanted: Collection[str]) -> dict[str, Tensors]:
    """H·g, with g and H of the mean cross-entropy of logits / temperature over all samples and prunable weights.

    Two passes (Pearlmutter's product): g first, then the derivative of ⟨g(θ), g⟩ with the second factor fixed.
    """
    weights = list(task.parameters.values())
    for parameter in task.model.parameters():
        parameter.requires_grad_(False)
    for parameter in weights:
        parameter.requires_grad_(True)

    def gradients(index: int, create_graph: bool) -> tuple[torch.Tensor, ...]:
        inputs, targets = task.batches[index]
        loss = F.cross_entropy(task.model(inputs) / task.scoring.temperature, targets, reduction="sum")
        return torch.autograd.grad(
            loss / task.samples, weights, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )

    batches = range(len(task.batches))
    with torch.enable_grad():
        mean = [torch.zeros_like(p) for p in weights]
        for index in batches:
            torch._foreach_add_(mean, gradients(index, create_graph=False))
        product = [torch.zeros_like(p) for p in weights]
        for index in batches:
            flow = sum((g * m).sum() for g, m in zip(gradients(index, create_graph=True), mean, strict=True))
            assert isinstance(flow, torch.Tensor)
            if flow.requires_grad:
                torch._foreach_add_(
                    product, torch.autograd.grad(flow, weights, allow_unused=True, materialize_grads=True)
                )
    return {"hessian_gradient": dict(zip(task.parameters, product, strict=True))}
