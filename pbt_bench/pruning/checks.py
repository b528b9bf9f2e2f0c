"""Check a network and its scoring data, and bring the data into the form in which statistics take them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import msgspec
import torch
from torch import Tensor, nn

from pbt_bench.errors import RequestError, note_once, shortened
from pbt_bench.models.prunable import check_network, matrices_left_out, output_of, prunable, reparametrised
from pbt_bench.pruning import batchnorm
from pbt_bench.pruning.task import Batches, Task
from pbt_bench.spec import Scoring


def checked_task(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], scoring: Scoring, seed: int) -> Task:
    """Return the task of computing statistics of `model` on `batches`; a model in half precision is copied to float32.

    Raises RequestError for a model that cannot be scored and for batches that are not (inputs, class indices).
    """
    check_network(model)
    if half := any(_is_half(p) for p in model.parameters()):
        model = _in_float32(model)
    parameters = _prunable(model, scoring)
    batches = _checked(batches)
    for name, parameter in parameters.items():
        if odd := int((~parameter.detach().isfinite()).sum()):
            raise RequestError(f"{name}: {odd} of {parameter.numel()} weights are NaN or infinite")
    device = next(iter(parameters.values())).device
    batches = [
        (x.to(device, torch.float32 if half and _is_half(x) else None), y.to(device, torch.int64))
        for x, y in ((_usable(x), _usable(y)) for x, y in batches)
    ]
    batches, scoring = joined_batches(model, batches, scoring)
    return Task(model, parameters, batches, scoring, seed)


def _prunable(model: nn.Module, scoring: Scoring) -> dict[str, nn.Parameter]:
    """Return the prunable weights. Raises RequestError if there are none or they are no floating-point numbers."""
    parameters = prunable(model, scoring.prune_classifier)
    computed = reparametrised(model)
    why = (
        f"{shortened(computed)} (of layers that compute their weight: make it plain with torch.nn.utils.prune.remove, "
        "parametrize.remove_parametrizations, remove_weight_norm or remove_spectral_norm)"
    )
    if not parameters:
        reason = f": {why}" if computed else " (convolutions or linear layers)"
        raise RequestError(f"{type(model).__name__} has no prunable weights{reason}")
    if computed:
        note_once(f"not prunable, and not counted in the sparsity: {why}")
    if left_out := matrices_left_out(model):
        note_once(
            f"not prunable, and not counted in the sparsity: {', '.join(left_out)} "
            "(only weights of convolutions, linear layers and nn.MultiheadAttention are)"
        )
    for name, parameter in parameters.items():
        if not parameter.is_floating_point():
            kind = str(parameter.dtype).removeprefix("torch.")
            raise RequestError(f"{name} is {kind}: only floating-point weights can be scored")
    return parameters


def _checked(batches: Iterable[tuple[Tensor, Tensor]]) -> Batches:
    """Return the batches. Raises RequestError unless they are pairs of inputs and class indices."""
    if not isinstance(batches, Iterable):
        raise RequestError(f"scoring data: {type(batches).__name__} is not a series of (inputs, targets)")
    batches = batches if isinstance(batches, Sequence) else list(batches)
    if not batches:
        raise RequestError("no scoring data: `batches` is empty")
    for index, batch in enumerate(batches):
        pair = isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(t, Tensor) for t in batch)
        if not pair or not 0 < len(batch[0]) == len(batch[1]):
            raise RequestError(f"scoring data: batch {index} is not (inputs, targets), two tensors of one length > 0")
        targets = batch[1]
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool or targets.dim() != 1:
            found = f"{str(targets.dtype).removeprefix('torch.')} of shape {tuple(targets.shape)}"
            raise RequestError(f"scoring data: the targets of batch {index} are {found}, not class indices [samples]")
    return batches


def joined_batches(model: nn.Module, batches: Batches, scoring: Scoring) -> tuple[Batches, Scoring]:
    """Join a last batch of one sample to the batch before it if batch normalisation needs more than one sample.

    A Fisher group that was one batch is then one sample larger too.
    """
    dependent = batchnorm.dependent(model, scoring.batchnorm)
    if not dependent and scoring.batchnorm != "calibrated":
        return batches, scoring
    joined = batchnorm.joined(batches)
    if dependent and len(joined) < len(batches) and scoring.fisher_batch_size == len(batches[-2][1]):
        scoring = msgspec.structs.replace(scoring, fisher_batch_size=scoring.fisher_batch_size + 1)
    return joined, scoring


def _is_half(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype.itemsize < 4


def _in_float32(model: nn.Module) -> nn.Module:
    """Return a copy of a model in half precision, in which products of small numbers would become zero."""
    try:
        return copy.deepcopy(model).float()
    except RuntimeError as error:  # a tensor that is computed from others
        said = str(error).splitlines()[0]
        raise RequestError(f"{type(model).__name__} is in half precision and has no copy in float32: {said}") from error


def _usable(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor  # autograd cannot save tensors of torch.inference_mode


def require_real_inputs(task: Task, name: str) -> None:
    """Raise RequestError if the inputs are indices, such as tokens, which real numbers cannot replace."""
    inputs = task.batches[0][0]
    if not inputs.is_floating_point():
        raise RequestError(f"{name} replaces the inputs by real numbers, which cannot be {inputs.dtype}")
    if task.round == 1:
        require_output(task, as_weights=True)


def require_classes(task: Task) -> None:
    """Raise RequestError unless the network returns logits [samples, classes] and every target is a class."""
    logits = require_output(task)
    if logits.dim() != 2 or len(logits) != 1:
        network, shape = type(task.model).__name__, tuple(logits.shape)
        raise RequestError(f"{network}: its output for one sample is shape {shape}, not logits [1, classes]")
    low = min(int(targets.min()) for _, targets in task.batches)
    high = max(int(targets.max()) for _, targets in task.batches)
    if low < 0 or high >= logits.shape[1]:
        wrong = low if low < 0 else high
        raise RequestError(f"scoring data: target {wrong} is not one of the classes 0 to {logits.shape[1] - 1}")


def require_output(task: Task, as_weights: bool = False) -> Tensor:
    """Return the network's output for one sample, converted to the weights' type with `as_weights`.

    Raises RequestError if the network does not accept the sample, or if its output is not a tensor.
    """
    inputs = task.batches[0][0][:1]
    if as_weights and inputs.is_floating_point():
        inputs = inputs.to(next(iter(task.parameters.values())).dtype)
    with torch.no_grad():
        return output_of(task.model, lambda: task.model(inputs), inputs, "scoring data")
