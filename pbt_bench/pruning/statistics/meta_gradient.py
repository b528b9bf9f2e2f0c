"""The gradient through a few steps of training."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from pbt_bench.constraints import at_least, between
from pbt_bench.pruning.plugins import statistic
from pbt_bench.pruning.task import Task, Tensors


@statistic(
    cite="Alizadeh et al. 2022, arXiv:2202.08132, Eq. 6",
    symbol=r"\frac{\partial L(\theta_M)}{\partial m}",
    formula=r"\theta_0 = m \odot \theta, \qquad v_{t+1} = \mu v_t + \frac{\partial L_t(\theta_t)}{\partial \theta_t}, "
    r"\qquad \theta_{t+1} = \theta_t - \eta\, v_{t+1}, \qquad m = \mathbf{1}",
)
def meta_gradient(
    task: Task,
    *,
    inner_steps: Annotated[int, at_least(1)] = 3,
    inner_learning_rate: Annotated[float, at_least(0)] = 0.1,
    inner_momentum: Annotated[float, between(0, 1)] = 0.0,
) -> Tensors:
    """Compute ∂L(θ_M)/∂m at m = 1, where θ_0 = m ⊙ θ and θ_M follows after M steps of SGD on all parameters.

    M is `inner_steps`. Step t uses batch t, and the loss L uses the batch after the last step's (cyclically). The
    gradient is that through all steps, the momentum of the first one included.
    """
    model = task.model
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    masks = {name: torch.ones_like(p).requires_grad_() for name, p in task.parameters.items()}

    def loss(state: dict[str, Tensor], step: int) -> Tensor:
        inputs, targets = task.batches[step % len(task.batches)]
        return F.cross_entropy(functional_call(model, state, (inputs,)), targets)

    with torch.enable_grad():
        state = {n: p * masks[n] if n in masks else p.clone().requires_grad_() for n, p in parameters.items()}
        momentum: dict[str, Tensor | float] = dict.fromkeys(state, 0.0)
        for step in range(inner_steps):
            gradients = torch.autograd.grad(
                loss(state, step), list(state.values()), create_graph=True, allow_unused=True, materialize_grads=True
            )
            for name, gradient in zip(list(state), gradients, strict=True):
                momentum[name] = inner_momentum * momentum[name] + gradient
                state[name] = state[name] - inner_learning_rate * momentum[name]
        found = torch.autograd.grad(
            loss(state, inner_steps), list(masks.values()), allow_unused=True, materialize_grads=True
        )
    return dict(zip(masks, found, strict=True))
