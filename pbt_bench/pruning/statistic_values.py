"""Compute statistics."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pbt_bench.errors import RequestError
from pbt_bench.pruning.batchnorm import set_mode
from pbt_bench.pruning.checks import require_classes
from pbt_bench.pruning.plugins import Statistic, statistics
from pbt_bench.pruning.task import PassResults, Start, Task, Tensors, synchronize


@dataclass(frozen=True)
class Measured:
    """A computed statistic."""

    values: Tensors
    seconds: float  # without shared passes
    passes: Mapping[str, float]  # shared pass -> its seconds
    notes: Mapping[str, float]
    start: Start | None = None  # of the training of the run; None: the scored weights at step 0


def compute(task: Task, names: Collection[str], options: Mapping[str, Any] | None = None) -> dict[str, Measured]:
    """Compute every statistic in `names`, those that need no data first. Call inside `preserved`.

    A statistic takes those of `options` that it declares. Raises RequestError for an unknown name, for a network or
    data for which a statistic is not defined, and for a result that is not a tensor of every weight's shape.
    """
    task.model.eval()
    for parameter in task.model.parameters():
        parameter.requires_grad_(False)
    for parameter in task.parameters.values():
        parameter.requires_grad_(True)
    passes = task.passes or PassResults()
    target = replace(task, passes=passes)
    task = replace(target, sparsity=None, kept=None)
    computed = {}
    ready = False
    for entry in sorted((statistics()[name] for name in names), key=lambda entry: (entry.data, entry.name)):
        if entry.data and not ready:
            if task.round == 1:
                require_classes(task)
            with _explained("calibration"):
                set_mode(task.model, task.scoring.batchnorm, task.batches)
            ready = True
        passes.begin()
        start = perf_counter()
        with _explained(entry.name), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivatives
            own = {name: value for name, value in (options or {}).items() if name in entry.options}
            given = replace(target if entry.per_sparsity else task, trainer=None, notes={}, starts=[])
            if target.trainer and entry.trains:
                given = replace(given, trainer=target.trainer.of(f"{entry.name} {own} {given.sparsity} {task.round}"))
            values = _of_every_weight(entry, entry.function(given, **own), task)
        synchronize(task)
        seconds = perf_counter() - start - passes.spent
        computed[entry.name] = Measured(values, seconds, passes.used, given.notes, *given.starts)
    return computed


def _of_every_weight(entry: Statistic, values: object, task: Task) -> Tensors:
    """Return the values of a statistic. Raises RequestError unless they are a tensor of every weight's shape."""
    where = f"statistic {entry.name!r}"
    if not isinstance(values, Mapping):
        raise RequestError(f"{where} returned {type(values).__name__}, not a mapping from parameter names to tensors")
    for name, parameter in task.parameters.items():
        value = values.get(name)
        if not isinstance(value, Tensor) or value.shape != parameter.shape:
            found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise RequestError(f"{where}, layer {name!r}: {found}, expected a tensor of shape {list(parameter.shape)}")
    return dict(values)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Raise RequestError for the errors that PyTorch raises if a network or a batch does not fit `what`."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        said = next(iter(str(error).splitlines()), "")
        if "derivative for" in said:  # as of nn.Hardsigmoid
            raise RequestError(f"{what}: the network uses a function without second derivatives ({said})") from error
        if "does not require grad" in said:
            raise RequestError(f"{what}: no gradient reaches any weight ({said})") from error
        if "more than 1 value per channel" in said:
            raise RequestError(f"{what}: batch normalisation by the batch needs larger batches ({said})") from error
        raise
