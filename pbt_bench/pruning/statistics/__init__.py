"""Named per-weight quantities, which pruners request by argument name.

A provider is a function of a `Task` that computes one or several statistics in one go; `compute` calls
each provider that is needed once, with the names that are wanted from it. To add a statistic, write one
provider in a file of this folder.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pbt_bench import registry
from pbt_bench.errors import RequestError
from pbt_bench.models.prunable import output_of
from pbt_bench.pruning.batchnorm import set_mode
from pbt_bench.spec import Scoring

Tensors = dict[str, Tensor]  # prunable parameter name -> tensor of its shape


@dataclass(frozen=True)
class Task:
    """The input of a statistic: a model, its prunable weights, and the scoring data on the model's device."""

    model: nn.Module
    parameters: Mapping[str, nn.Parameter]
    batches: Sequence[tuple[Tensor, Tensor]]  # (inputs [n, ...], class indices [n])
    scoring: Scoring
    seed: int  # of the streams for random numbers and probes
    draw: Callable[[int], Sequence[tuple[Tensor, Tensor]]] | None = None  # batches of a later round; None = the same
    dense: Mapping[str, Tensor] | None = None  # the weights before any round pruned; None = as they stand
    round: int = 1  # of an iterative method; rounds draw different random numbers
    masks: Mapping[str, Tensor] | None = None  # of the rounds so far; None = nothing is pruned
    notes: dict[str, dict[str, float]] = field(default_factory=dict)  # statistic -> what its provider measured

    @property
    def samples(self) -> int:
        """Number of scoring samples."""
        return sum(len(targets) for _, targets in self.batches)

    def require_real_inputs(self, statistic: str) -> None:
        """Raise RequestError if the network's inputs are indices (tokens), which real numbers cannot replace."""
        inputs = self.batches[0][0]
        if not inputs.is_floating_point():
            raise RequestError(f"{statistic} puts real numbers for the inputs, which cannot be {inputs.dtype}")
        if self.round == 1:
            self.require_output(as_weights=True)

    def require_classes(self) -> None:
        """Raise RequestError unless the network gives logits [samples, classes] that include every target."""
        logits = self.require_output()
        if logits.dim() != 2 or len(logits) != 1:
            network, shape = type(self.model).__name__, tuple(logits.shape)
            raise RequestError(f"{network}: its output for one sample is shape {shape}, not logits [1, classes]")
        low = min(int(targets.min()) for _, targets in self.batches)
        high = max(int(targets.max()) for _, targets in self.batches)
        if low < 0 or high >= logits.shape[1]:
            wrong = low if low < 0 else high
            raise RequestError(f"scoring data: target {wrong} is not one of the classes 0 to {logits.shape[1] - 1}")

    def require_output(self, as_weights: bool = False) -> Tensor:
        """Return the network's output for one sample, in the type of the weights or as it is.

        Raises RequestError if the network does not take the sample, or if its output is no tensor.
        """
        inputs = self.batches[0][0][:1]
        if as_weights and inputs.is_floating_point():
            inputs = inputs.to(next(iter(self.parameters.values())).dtype)
        with torch.no_grad():
            return output_of(self.model, lambda: self.model(inputs), inputs, "scoring data")

    def require_only(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Make these parameters, and no others, require gradients."""
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        for parameter in parameters.values():
            parameter.requires_grad_(True)


Provider = Callable[[Task, Collection[str]], dict[str, Tensors]]


@dataclass(frozen=True)
class Statistic:
    """A statistic's name and the provider that computes it."""

    name: str
    provider: Provider
    cite: str
    data: bool  # False: sees no data, and the model as it stands
    summary: str


_STATISTICS: registry.Registry[Statistic] = registry.Registry("statistic")


def provides(*, data: bool, **cites: str) -> Callable[[Provider], Provider]:
    """Register a provider of the statistics named by the keywords, each with its citation."""

    def register(provider: Provider) -> Provider:
        summary = (inspect.getdoc(provider) or "").split("\n", 1)[0]
        for name, cite in cites.items():
            _STATISTICS.add(name, Statistic(name, provider, cite, data, summary), registry.origin(provider))
        return provider

    return register


@cache
def statistics() -> registry.Registry[Statistic]:
    """Return all statistics; every module of this folder is imported once."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return _STATISTICS


@dataclass(frozen=True)
class Computed:
    """Statistics by name, and the seconds that the provider of each one took."""

    values: dict[str, Tensors]
    seconds: dict[str, float]


def compute(task: Task, names: Collection[str]) -> Computed:
    """Compute every statistic in `names`, calling each provider once. Call inside `preserved`.

    Data-free statistics see the model as it stands; for the others its batch normalisation is first put
    into the mode that the scoring asks for. Raises RequestError for an unknown name.
    """
    wanted: dict[Provider, list[Statistic]] = {}
    for name in sorted(names):
        entry = statistics()[name]
        wanted.setdefault(entry.provider, []).append(entry)
    if task.draw and task.round > 1:
        task = replace(task, batches=task.draw(task.round))
    task.model.eval()
    values: dict[str, Tensors] = {}
    seconds: dict[str, float] = {}
    ready = False
    for provider, entries in sorted(wanted.items(), key=lambda item: item[1][0].data):
        if entries[0].data and not ready:
            if task.round == 1:
                task.require_classes()
            with _explained("calibration"):
                set_mode(task.model, task.scoring.batchnorm, task.batches)
            ready = True
        start = perf_counter()
        with _explained(entries[0].name), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivatives
            values |= provider(task, [entry.name for entry in entries])
        if any(t.is_cuda for t in task.parameters.values()):
            torch.cuda.synchronize()
        took = perf_counter() - start
        seconds |= {entry.name: took for entry in entries}
    return Computed(values, seconds)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Raise RequestError for what PyTorch raises where a network or a batch is not fit for `what`."""
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
