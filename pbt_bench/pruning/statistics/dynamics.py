"""Statistics that look at training itself: through a few of its steps, or at its neural tangent kernel."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from pbt_bench.pruning import batchnorm
from pbt_bench.pruning.statistics import Task, Tensors, provides
from pbt_bench.seeds import stream


@provides(data=True, meta_gradient="Alizadeh et al. 2022, arXiv:2202.08132, Eq. 6")
def meta_gradient(task: Task, wanted: Collection[str]) -> dict[str, Tensors]:
    """∂L(θ_M)/∂m at m = 1, θ_0 = m ⊙ θ and θ_M after `inner_steps` M steps of SGD with momentum on all parameters.

    Step t uses batch t, the last loss the batch after them (cyclically). The graph reaches through every step,
    the first one's momentum included.
    """
    scoring, model = task.scoring, task.model
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    masks = {name: torch.ones_like(p).requires_grad_() for name, p in task.parameters.items()}

    def loss(state: dict[str, Tensor], step: int) -> Tensor:
        inputs, targets = task.batches[step % len(task.batches)]
        return F.cross_entropy(functional_call(model, state, (inputs,)), targets)

    with torch.enable_grad():
        state = {n: p * masks[n] if n in masks else p.clone().requires_grad_() for n, p in parameters.items()}
        momentum: dict[str, Tensor | float] = dict.fromkeys(state, 0.0)
        for step in range(scoring.inner_steps):
            gradients = torch.autograd.grad(
                loss(state, step), list(state.values()), create_graph=True, allow_unused=True, materialize_grads=True
            )
            for name, gradient in zip(list(state), gradients, strict=True):
                momentum[name] = scoring.inner_momentum * momentum[name] + gradient
                state[name] = state[name] - scoring.inner_learning_rate * momentum[name]
        found = torch.autograd.grad(
            loss(state, scoring.inner_steps), list(masks.values()), allow_unused=True, materialize_grads=True
        )
    return {"meta_gradient": dict(zip(masks, found, strict=True))}


@provides(data=False, ntk_sensitivity="Wang et al. 2023, arXiv:2304.02840, Eq. 8")
def ntk_sensitivity(task: Task, wanted: Collection[str]) -> dict[str, Tensors]:
    """∂/∂m Σ ‖f(z; θ'⊙m) - f(z; (θ'+Δ)⊙m)‖², m the mask so far, over `perturbations` draws for every batch.

    z ~ N(0, 1) in the shape of the batch (labels and images are not used), Δ ~ N(0, perturbation_scale²), and θ'
    a fresh initialisation: every prunable tensor's own dense weights in random order. Batch normalisation uses
    the statistics that z has under θ'⊙m.
    """
    task.require_real_inputs("ntk_sensitivity")
    dense = task.dense or {n: p.detach().clone() for n, p in task.parameters.items()}  # parameters are overwritten
    kept = task.masks
    masks = {n: torch.ones_like(p) if kept is None else kept[n].to(p.dtype) for n, p in dense.items()}
    generator = stream(task.seed, "ntk", task.round)
    scale = task.scoring.perturbation_scale

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like.device, like.dtype)

    def permuted(weights: Tensor) -> Tensor:
        order = torch.randperm(weights.numel(), generator=generator).to(weights.device)
        return weights.flatten()[order].view_as(weights)

    total = {name: torch.zeros_like(p) for name, p in dense.items()}
    task.require_only({})
    for inputs, _ in batchnorm.joined(task.batches):
        for _ in range(task.scoring.perturbations):
            z = normal(inputs)
            weights = {name: permuted(p) for name, p in dense.items()}
            with torch.no_grad():
                for name, parameter in task.parameters.items():
                    parameter.copy_(weights[name] * masks[name])
            batchnorm.set_mode(task.model, "calibrated", [(z, z)])
            with torch.enable_grad():
                leaves = {name: mask.clone().requires_grad_() for name, mask in masks.items()}
                plain = {name: weights[name] * leaf for name, leaf in leaves.items()}
                moved = {name: (weights[name] + scale * normal(leaf)) * leaf for name, leaf in leaves.items()}
                change = functional_call(task.model, plain, (z,)) - functional_call(task.model, moved, (z,))
                found = torch.autograd.grad(
                    change.square().sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
                )
            for name, gradient in zip(leaves, found, strict=True):
                total[name] += gradient
    return {"ntk_sensitivity": total}
