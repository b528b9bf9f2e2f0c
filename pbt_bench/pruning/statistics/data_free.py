"""Statistics that need no data."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch.func import functional_call

from pbt_bench.pruning.statistics import Task, Tensors, provides
from pbt_bench.seeds import stream


@provides(data=False, weight="the model")
def weight(task: Task, wanted: Collection[str]) -> dict[str, Tensors]:
    """θ, the weight itself; in the rounds of an iterative method its value before any was pruned."""
    dense = task.parameters if task.dense is None else task.dense
    return {"weight": {name: w.detach().clone() for name, w in dense.items()}}


@provides(data=False, uniform="own random stream")
def uniform(task: Task, wanted: Collection[str]) -> dict[str, Tensors]:
    """u ~ U(0, 1) in float64, so that ties do not happen; the same numbers on every device."""
    generator = stream(task.seed, "uniform")
    return {
        "uniform": {
            name: torch.rand(p.shape, generator=generator, dtype=torch.float64).to(p.device)
            for name, p in task.parameters.items()
        }
    }


@provides(data=False, synaptic_flow="Tanaka et al. 2020, arXiv:2006.05467, Eq. 3")
def synaptic_flow(task: Task, wanted: Collection[str]) -> dict[str, Tensors]:
    """∂R/∂|θ| with R = Σ f(1; |θ|), all parameters and buffers replaced by their absolute values, in float64.

    The network is in eval mode with its running statistics as they stand; the input is one example of ones.
    """
    inputs = task.batches[0][0]
    absolute = {name: p.detach().double().abs() for name, p in task.model.named_parameters()}
    buffers = {name: b.double().abs() if b.is_floating_point() else b.clone() for name, b in task.model.named_buffers()}
    flows = {name: absolute[name].requires_grad_() for name in task.parameters}
    ones = torch.ones((1, *inputs.shape[1:]), dtype=torch.float64, device=inputs.device)
    with torch.enable_grad():
        total = functional_call(task.model, absolute | buffers, (ones,)).sum()
        found = torch.autograd.grad(total, list(flows.values()), allow_unused=True, materialize_grads=True)
    return {"synaptic_flow": dict(zip(flows, found, strict=True))}
