"""Statistics with second derivatives of the mean cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from pbt_bench.constraints import at_least, one_of
from pbt_bench.errors import RequestError
from pbt_bench.pruning import batchnorm
from pbt_bench.pruning.group_gradients import group_sums, rechunk
from pbt_bench.pruning.plugins import statistic
from pbt_bench.pruning.task import Task, Tensors
from pbt_bench.seeds import stream

MOST_PROBES = 100_000


@statistic(
    cite="Wang et al. 2020, arXiv:2002.07376, Eq. 4",
    symbol="(Hg)",
    formula=r"H g = \frac{\partial}{\partial \theta} \left\langle g(\theta),\, g \right\rangle, \qquad "
    r"g = \frac{\partial}{\partial \theta} \frac{1}{N} \sum_i \ell\left(f(x_i;\, \theta) / T,\, y_i\right)",
)
def hessian_gradient(task: Task, *, temperature: Annotated[float, at_least(1e-6)] = 200.0) -> Tensors:
    """H·g, with g and H of the mean cross-entropy of logits / temperature over all samples and prunable weights.

    Two passes: g first, then its derivative in the direction g (Pearlmutter 1994).
    """
    weights = list(task.parameters.values())
    mean = [torch.zeros_like(p) for p in weights]
    for batch in _parts(task, task.batches):
        torch._foreach_add_(mean, _gradients(task, batch, temperature, create_graph=False))
    product = [torch.zeros_like(p) for p in weights]
    for batch in _parts(task, task.batches):
        torch._foreach_add_(product, _products(task, _gradients(task, batch, temperature, create_graph=True), mean))
    return dict(zip(task.parameters, product, strict=True))


@statistic(
    cite="Hutchinson 1990; Bekas et al. 2007, Eq. 3; or exact, Gauss-Newton",
    symbol="h",
    formula=r"h = \frac{1}{K} \sum_{k=1}^{K} v_k \odot H v_k, \qquad v_k \in \{-1, 1\}^d",
)
def hessian_diagonal(
    task: Task,
    *,
    curvature: Annotated[str, one_of("hutchinson", "ggn")] = "hutchinson",
    probes: Annotated[int, at_least(1)] = 100,
    probe_tolerance: Annotated[float, at_least(1e-4)] | None = None,
    probes_per_batch: bool = False,
) -> Tensors:
    """diag(H) of the mean cross-entropy of logits / loss_temperature, as `curvature` says.

    hutchinson  the mean of v ⊙ Hv over Rademacher probes v, which is unbiased: `probes` of them, or as many
                more as `probe_tolerance` asks for, up to MOST_PROBES: until ‖standard error‖ / ‖diagonal‖ over all
                weights is at most that. Notes `probes`, `standard_error` (the norm) and `relative_standard_error`
                (not while the noise hides the diagonal). With `probes_per_batch` every batch has probes of its own.
    ggn         the diagonal of the generalised Gauss-Newton matrix, exact: Σ_c of squared per-sample gradients
                of ⟨logits / T, s_c⟩, s_c = √p_c (e_c - p) (Schraudolph 2002). It equals the Hessian's diagonal where
                logits are piecewise linear in every single weight: ReLU networks without tied weights, and with
                batchnorm not "batch".
    """
    if curvature == "ggn":
        return _gauss_newton_diagonal(task)
    mean = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in task.parameters.items()}
    deviations = {name: torch.zeros_like(m) for name, m in mean.items()}  # Welford's sum of squared deviations
    generator = stream(task.seed, "probes")
    count, goal = 0, probes
    while count < goal:
        count += 1
        for (name, m), sample in zip(mean.items(), _probed(task, generator, probes_per_batch), strict=True):
            before = sample - m
            m += before / count
            deviations[name] += before * (sample - m)
        if count == goal:
            error, relative = _errors(mean, deviations, count)
            if probe_tolerance is not None and relative > probe_tolerance:
                goal = min(MOST_PROBES, max(goal + 1, int(goal * min(4.0, 1.1 * (relative / probe_tolerance) ** 2))))
    notes = {"probes": float(count), "standard_error": error, "relative_standard_error": relative}
    task.notes.update((name, value) for name, value in notes.items() if math.isfinite(value))
    return {name: m.to(task.parameters[name].dtype) for name, m in mean.items()}


def _errors(mean: Tensors, deviations: Tensors, count: int) -> tuple[float, float]:
    """‖standard error of the mean‖ over all weights, and that over ‖diagonal‖; infinite where nothing is known.

    ‖diagonal‖² is ‖mean‖² less the variance of the mean: the mean alone is as long as its noise, so that the quotient
    would never be much above one.
    """
    if count < 2:
        return math.inf, math.inf
    variance = sum(float(s.sum()) for s in deviations.values()) / (count - 1) / count
    square = sum(float(m.square().sum()) for m in mean.values()) - variance
    relative = math.sqrt(variance / square) if square > 0 else 0.0 if variance == 0 else math.inf
    return math.sqrt(variance), relative


def _probed(task: Task, generator: torch.Generator, probes_per_batch: bool) -> list[Tensor]:
    """Return Σ v ⊙ Hv over all samples, v a Rademacher vector: one for all batches, or one per batch."""
    weights = list(task.parameters.values())
    temperature = task.scoring.loss_temperature
    total = [torch.zeros_like(w) for w in weights]
    for batches in [[batch] for batch in task.batches] if probes_per_batch else [task.batches]:
        probe = [torch.randint(2, w.shape, generator=generator).to(w.device, w.dtype) * 2 - 1 for w in weights]
        product = [torch.zeros_like(w) for w in weights]
        for part in _parts(task, batches):
            torch._foreach_add_(product, _products(task, _gradients(task, part, temperature, create_graph=True), probe))
        torch._foreach_addcmul_(total, product, probe)
    return total


def _parts(task: Task, batches: Sequence[tuple[Tensor, Tensor]]) -> Sequence[tuple[Tensor, Tensor]]:
    """What is propagated at once: the batches, or `scoring.chunk` samples where that is stated and changes nothing."""
    chunk = task.scoring.chunk
    if chunk is None or batchnorm.dependent(task.model, task.scoring.batchnorm):
        return batches
    return list(rechunk(batches, 1, chunk))


def _gradients(task: Task, batch: tuple[Tensor, Tensor], temperature: float, create_graph: bool) -> tuple[Tensor, ...]:
    """The share of a batch in the gradient of the mean loss."""
    inputs, targets = batch
    with torch.enable_grad():
        loss = F.cross_entropy(task.model(inputs) / temperature, targets, reduction="sum") / task.samples
        return torch.autograd.grad(
            loss, list(task.parameters.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
        )


def _products(task: Task, gradients: Sequence[Tensor], vector: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """∂⟨gradients, vector⟩/∂weights."""
    weights = list(task.parameters.values())
    with torch.enable_grad():
        total = torch.stack([(g * v).sum() for g, v in zip(gradients, vector, strict=True)]).sum()
        if not total.requires_grad:
            return tuple(torch.zeros_like(w) for w in weights)
        return torch.autograd.grad(total, weights, allow_unused=True, materialize_grads=True)


def _gauss_newton_diagonal(task: Task) -> Tensors:
    if batchnorm.dependent(task.model, task.scoring.batchnorm):
        raise RequestError(
            "curvature = 'ggn' needs independent samples: batchnorm = 'running' or 'calibrated', of layers that keep "
            "running statistics"
        )

    def along(label: int) -> Callable[[Tensor, Tensor], Tensor]:
        def loss(logits: Tensor, targets: Tensor) -> Tensor:
            logits = logits / task.scoring.loss_temperature
            p = logits.detach().softmax(1)
            direction = -p
            direction[:, label] += 1
            return (logits * direction * p[:, label : label + 1].sqrt()).sum()

        return loss

    with torch.no_grad():
        classes = task.model(task.batches[0][0][:1]).shape[1]
    total = {name: torch.zeros_like(p) for name, p in task.parameters.items()}
    for label in range(classes):
        _, squares = group_sums(task.model, task.parameters, task.batches, 1, along(label), chunk=task.scoring.chunk)
        for name, square in squares.items():
            total[name] += square / task.samples
    return total
