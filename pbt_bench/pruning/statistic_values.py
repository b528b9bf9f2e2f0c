"""Compute statistics."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter

from torch.nn.attention import SDPBackend, sdpa_kernel

from pbt_bench.errors import RequestError
from pbt_bench.pruning.batchnorm import set_mode
from pbt_bench.pruning.checks import require_classes
from pbt_bench.pruning.statistics import statistics
from pbt_bench.pruning.task import PassResults, Task, Tensors, synchronize


@dataclass(frozen=True)
class Computed:
    """Statistics by name, with the seconds that each took."""

    values: dict[str, Tensors]
    seconds: dict[str, float]  # without shared passes
    passes: dict[str, dict[str, float]]  # statistic -> shared pass -> its seconds

    def update(self, other: Computed) -> None:
        """Add the statistics of `other`."""
        self.values.update(other.values)
        self.seconds.update(other.seconds)
        self.passes.update(other.passes)


def compute(task: Task, names: Collection[str]) -> Computed:
    """Compute every statistic in `names`, those that need no data first. Call inside `preserved`.

    Raises RequestError for an unknown name and for a network or data for which a statistic is not defined.
    """
    task.model.eval()
    for parameter in task.model.parameters():
        parameter.requires_grad_(False)
    for parameter in task.parameters.values():
        parameter.requires_grad_(True)
    passes = task.passes or PassResults()
    task = replace(task, passes=passes)
    computed = Computed({}, {}, {})
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
            computed.values[entry.name] = entry.function(task)
        synchronize(task)
        computed.seconds[entry.name] = perf_counter() - start - passes.spent
        computed.passes[entry.name] = passes.used
    return computed


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
