"""The input of a statistic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from time import perf_counter
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from pbt_bench.errors import RequestError
from pbt_bench.seeds import stream
from pbt_bench.spec import Scoring

Batches = Sequence[tuple[Tensor, Tensor]]  # (inputs [n, ...], class indices [n])
Tensors = dict[str, Tensor]  # prunable parameter name -> tensor of its shape
T = TypeVar("T")


class PassResults:
    """Results of passes over the scoring data that several statistics use, with the seconds that each pass took."""

    def __init__(self) -> None:
        self._results: dict[str, tuple[Any, float]] = {}
        self.begin()

    def begin(self) -> None:
        """Start to measure another statistic."""
        self.used: dict[str, float] = {}  # the passes that it requests, with the seconds of each
        self.spent = 0.0  # seconds of those passes that were not computed before

    def get(self, function: Callable[..., T], task: Task, options: dict[str, Any]) -> T:
        """Return the result of `function` for `task` and `options`, computed at the first request."""
        name = f"{function.__name__} {options}"
        if name not in self._results:
            start = perf_counter()
            result = function(task, **options)
            synchronize(task)
            self._results[name] = (result, perf_counter() - start)
            self.spent += self._results[name][1]
        found: T
        found, self.used[name] = self._results[name]
        return found


@dataclass(frozen=True)
class TrainedNetwork:
    """The result of `Task.train`."""

    state: Mapping[str, Tensor]  # all parameters and buffers, as `state_dict` returns them
    validation_accuracy: float | None  # in [0, 1]; None if the recipe has no validation images
    test_accuracy: float  # in [0, 1]; for notes only, no choice may depend on it


@dataclass(frozen=True)
class Start:
    """The point from which the training of a run begins."""

    state: Mapping[str, Tensor]  # all parameters and buffers, as `state_dict` returns them
    begin: str | int  # "N epochs", "N steps" or the number of steps before it


class Trainer(Protocol):
    """Trains a network for one statistic of a run."""

    def __call__(
        self, masks: Mapping[str, Tensor], state: Mapping[str, Tensor], begin: str | int, end: str | int | None
    ) -> TrainedNetwork:
        """Train a network with the given state: see `Task.train`."""

    def of(self, statistic: str) -> Trainer:
        """Return the trainer of a statistic, whose trainings are counted from the first again."""


@dataclass(frozen=True)
class Task:
    """A model, its prunable weights and the scoring data, all on one device.

    While a statistic is computed, the model is in eval mode with its batch normalisation as `scoring.batchnorm` says,
    and exactly the prunable weights require gradients. The model is restored afterwards.
    """

    model: nn.Module
    parameters: Mapping[str, nn.Parameter]
    batches: Batches
    scoring: Scoring
    seed: int
    sparsity: float | None = None  # target of the run, and
    kept: int | None = None  # number of weights that it keeps: for statistics with per_sparsity=True
    round: int = 1  # of an iterative method
    masks: Mapping[str, Tensor] | None = None  # of the rounds so far; None: nothing is pruned
    unpruned: Mapping[str, Tensor] | None = None  # weights before the first round pruned; None: as they are
    notes: dict[str, float] = field(default_factory=dict)  # measurements of the statistic, for the record
    trainer: Trainer | None = None  # of a run, for statistics with trains=True
    starts: list[Start] = field(default_factory=list)  # what the statistic gave to `begin_run`
    passes: PassResults | None = None  # results of passes that statistics share; for speed only

    @property
    def samples(self) -> int:
        """Number of scoring samples."""
        return sum(len(targets) for _, targets in self.batches)

    @property
    def weights(self) -> Tensors:
        """Copies of the prunable weights, in an iterative method as they were before its first round."""
        source = self.parameters if self.unpruned is None else self.unpruned
        return {name: weight.detach().clone() for name, weight in source.items()}

    def train(
        self,
        masks: Mapping[str, Tensor] | None = None,
        state: Mapping[str, Tensor] | None = None,
        begin: str | int = 0,
        end: str | int | None = None,
    ) -> TrainedNetwork:
        """Train a copy of the network by the recipe of the run, and return its state at the end.

        Pruned weights of `masks` (parameter name -> bool tensor, True = kept) stay exactly zero; without masks, all
        weights are trained. The copy starts with `state`, by default that of the network now. It is trained from step
        `begin` to step `end` of the recipe, which are "N epochs", "N steps" or numbers of steps; None is the end of the
        recipe. Data and learning rates of a step are those of that step in the training of the run itself. A run that
        is interrupted continues from the last finished training, or within it. Raises RequestError outside of a run,
        where there is no training data, and for statistics without trains=True.
        """
        if self.trainer is None:
            raise RequestError("only a run of a grid, and a statistic with trains=True, can train the network")
        return self.trainer(masks or {}, state or self.model.state_dict(), begin, end)

    def begin_run(self, state: Mapping[str, Tensor], begin: str | int) -> None:
        """Let the training of the run begin with `state` at step `begin` of the recipe, under the masks of the run.

        Without a call, it begins with the scored weights at step 0. Data and learning rates are as in `train`.
        """
        self.starts[:] = [Start(state, begin)]

    def generator(self, purpose: str) -> torch.Generator:
        """Return a random generator on the CPU, which depends on the seed, the purpose and the round."""
        return stream(self.seed, purpose, self.round)


def shared_pass(function: Callable[..., T]) -> Callable[..., T]:
    """Compute a function of a task, and of options, once for all statistics; all of them get the same tensors."""

    @wraps(function)
    def shared(task: Task, **options: Any) -> T:
        return function(task, **options) if task.passes is None else task.passes.get(function, task, options)

    return shared


def synchronize(task: Task) -> None:
    """Wait until a GPU has finished, so that a clock measures its work."""
    if any(parameter.is_cuda for parameter in task.parameters.values()):
        torch.cuda.synchronize()
