"""The sensitivity of the neural tangent kernel to a weight."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.func import functional_call

from pbt_bench.constraints import at_least
from pbt_bench.models.prunable import packed_projections
from pbt_bench.pruning import batchnorm, checks
from pbt_bench.pruning.plugins import statistic
from pbt_bench.pruning.task import Task, Tensors


@statistic(
    cite="Wang et al. 2023, arXiv:2304.02840, Eq. 8",
    data=False,
    revision=2,
    symbol="S",
    formula=r"S = \frac{\partial}{\partial m} \sum_{z, \Delta} \left\| f(z;\, \theta' \odot m) - "
    r"f(z;\, (\theta' + \Delta) \odot m) \right\|^2",
)
def ntk_sensitivity(
    task: Task,
    *,
    perturbations: Annotated[int, at_least(1)] = 5,
    perturbation_scale: Annotated[float, at_least(1e-12)] = 0.01,
) -> Tensors:
    """Compute ∂/∂m Σ ‖f(z; θ'⊙m) - f(z; (θ'+Δ)⊙m)‖², m the mask so far, over `perturbations` draws for every batch.

    z ~ N(0, 1) in the shape of the batch (labels and images are not used), Δ ~ N(0, perturbation_scale²), and θ'
    a fresh initialisation: the dense weights of every layer in random order. Batch normalisation uses
    the statistics that z has under θ'⊙m.
    """
    checks.require_real_inputs(task, "ntk_sensitivity")
    dense = task.weights
    masks = {n: torch.ones_like(p) if task.masks is None else task.masks[n].to(p.dtype) for n, p in dense.items()}
    generator = task.generator("ntk")

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like.device, like.dtype)

    packed = packed_projections(task.model)

    def permuted(weights: Tensor) -> Tensor:
        order = torch.randperm(weights.numel(), generator=generator).to(weights.device)
        return weights.flatten()[order].view_as(weights)

    total = {name: torch.zeros_like(p) for name, p in dense.items()}
    for inputs, _ in batchnorm.joined(task.batches):
        for _ in range(perturbations):
            z = normal(inputs)
            weights = {
                name: torch.cat([permuted(layer) for layer in p.chunk(3)]) if name in packed else permuted(p)
                for name, p in dense.items()
            }
            with torch.no_grad():
                for name, parameter in task.parameters.items():
                    parameter.copy_(weights[name] * masks[name])
            batchnorm.set_mode(task.model, "calibrated", [(z, z)])
            with torch.enable_grad():
                leaves = {name: mask.clone().requires_grad_() for name, mask in masks.items()}
                plain = {name: weights[name] * leaf for name, leaf in leaves.items()}
                moved = {
                    name: (weights[name] + perturbation_scale * normal(leaf)) * leaf for name, leaf in leaves.items()
                }
                change = functional_call(task.model, plain, (z,)) - functional_call(task.model, moved, (z,))
                found = torch.autograd.grad(
                    change.square().sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
                )
            for name, gradient in zip(leaves, found, strict=True):
                total[name] += gradient
    return total
