"""Metrics of a mask that need no training: one function per metric.

A metric takes a `MaskedTask` and returns a number, or None where it is not defined. Its name is the name of a field of
`MaskMetrics` in `pbt_bench/running/record.py`. All metrics describe the network at the start of its training, and none
depends on how a method computes its scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pbt_bench.connectivity import layer_graphs, path_counts
from pbt_bench.models.model_state import preserved
from pbt_bench.models.prunable import Masks, owners
from pbt_bench.pruning import batchnorm
from pbt_bench.pruning.diagnosis import Diagnosis
from pbt_bench.pruning.group_gradients import group_sums, rechunk

SAMPLES = 64  # of the scoring data, from which gradients are computed
_JACOBIAN_ROWS = 80  # gradients of one logit of one sample: 8 samples with 10 classes, one sample with 80 or more


@dataclass(frozen=True)
class MaskedTask:
    """A masked network with samples.

    The network is in eval mode, with batch normalisation by the statistics of the samples. Exactly the parameters that
    have a mask require gradients.
    """

    model: nn.Module
    masks: Masks
    inputs: Tensor
    targets: Tensor  # class indices
    diagnosis: Diagnosis
    gaps: Mapping[str, float | None]  # the Ramanujan gap of each layer

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that have a mask, by name."""
        found = dict(self.model.named_parameters())
        return {name: found[name] for name in self.masks}

    @property
    def dependent(self) -> bool:
        """True if the outputs of samples depend on each other, because a layer normalises by the batch."""
        return batchnorm.dependent(self.model, "calibrated")


def live_unit_share(task: MaskedTask) -> float:
    """Return the share of the output channels and units of all layers that have a live weight."""
    return task.diagnosis.live_unit_share


def log10_paths(task: MaskedTask) -> float | None:
    """Return log10 of the number of paths of kept weights from input to output.

    The rules are those of `pbt_bench.connectivity.path_counts`.
    """
    return path_counts.log10_paths(task.model, task.masks, task.inputs)


def ramanujan_gap(task: MaskedTask) -> float | None:
    """Return the mean Ramanujan gap of the layers that have one."""
    found = [gap for gap in task.gaps.values() if gap is not None]
    return sum(found) / len(found) if found else None


def gradient_norm(task: MaskedTask) -> float:
    """Compute the L2 norm over all kept weights of the gradient of the mean cross-entropy of the samples."""
    whole = [(task.inputs, task.targets)]
    parameters = task.parameters
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for inputs, targets in whole if task.dependent else rechunk(whole, 1, None):
        loss = F.cross_entropy(task.model(inputs), targets, reduction="sum")
        if loss.requires_grad:
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
            for name, gradient in zip(parameters, found, strict=True):
                total[name] += gradient
    squares = sum(float((total[name] * mask).square().sum(dtype=torch.float64)) for name, mask in task.masks.items())
    return math.sqrt(squares) / len(task.targets)


def ntk_trace(task: MaskedTask) -> float | None:
    """Compute (1/n) Σᵢ Σₖ ‖∂fₖ(xᵢ)/∂θ‖², θ the kept weights: the trace of the neural tangent kernel per sample.

    f are the logits. The sum is exact over all classes k and over the first n of the samples, where n is 80 divided by
    the number of classes, and at least 1. The result is None if the outputs of samples depend on each other.
    """
    if task.dependent:
        return None
    with torch.no_grad():
        classes = task.model(task.inputs[:1]).shape[-1]
    samples = task.inputs[: max(1, _JACOBIAN_ROWS // classes)]
    rows = torch.arange(classes, device=samples.device).repeat(len(samples))

    def logits(outputs: Tensor, rows: Tensor) -> Tensor:
        return outputs.gather(1, rows[:, None]).sum()

    repeated = samples.repeat_interleave(classes, dim=0)
    _, squares = group_sums(task.model, task.parameters, [(repeated, rows)], 1, logits)
    total = sum(float((squares[name] * mask).sum(dtype=torch.float64)) for name, mask in task.masks.items())
    return total / len(samples)


METRICS: tuple[Callable[[MaskedTask], float | None], ...] = (
    live_unit_share,
    log10_paths,
    ramanujan_gap,
    gradient_norm,
    ntk_trace,
)


@dataclass(frozen=True)
class MeasuredMask:
    """The metrics of a mask; None where one is not defined or not finite."""

    values: dict[str, float | None]  # metric -> value
    gaps: dict[str, float | None]  # layer -> Ramanujan gap


def measure(model: nn.Module, masks: Masks, inputs: Tensor, targets: Tensor, diagnosis: Diagnosis) -> MeasuredMask:
    """Compute all metrics of `model`, whose pruned weights are zero; the model comes back bit-identical."""
    modules = owners(model)
    graphs = {name: layer_graphs.layer_graph(mask, modules.get(name)) for name, mask in masks.items()}
    gaps = {name: layer_graphs.ramanujan_gap(graph) for name, graph in graphs.items()}
    task = MaskedTask(model, masks, inputs, targets, diagnosis, gaps)
    with preserved(model), torch.enable_grad():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in masks)
        batchnorm.set_mode(model, "calibrated" if len(targets) > 1 else "running", [(inputs, targets)])
        values = {metric.__name__: metric(task) for metric in METRICS}
    finite = {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}
    return MeasuredMask(finite, gaps)
