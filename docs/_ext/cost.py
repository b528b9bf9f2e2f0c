"""Cost of a method in passes through the network, counted while it scores a small network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import nn

import pbt_bench
from pbt_bench.pruning import checks
from pbt_bench.pruning.plugins import pruners, statistics
from pbt_bench.pruning.task import Task

_SAMPLES = 6  # per batch


@dataclass(frozen=True)
class Count:
    """Calls of the network, examples in them, and calls of autograd."""

    forward: int
    examples: int
    backward: int


@dataclass(frozen=True)
class Cost:
    """Passes through the network, of all rounds together, with the default numbers of `Scoring`."""

    forward: int
    backward: int
    over: str  # "the scoring data", "one example", "one batch", or "" for a method without passes

    def __str__(self) -> str:
        if not self.over:
            return "no pass through the network"
        if not self.forward:
            return self.over
        passes = "pass" if max(self.forward, self.backward) == 1 else "passes"
        if self.forward == self.backward:
            return f"{self.forward} forward and backward {passes} over {self.over}"
        behind = f" and {self.backward} backward" if self.backward else ""
        return f"{self.forward} forward{behind} {passes} over {self.over}"


def cost(method: str) -> Cost:
    """Count the passes of `method`, over the scoring data if their number grows with the number of batches.

    Passes that are independent of the number of batches are then not counted, such as those of a few examples that
    test whether samples depend on each other.
    """
    if pruners()[method].trains:
        return Cost(0, 0, "a training of the network per level")
    one, two = count(method, 1), count(method, 2)
    if two.examples > one.examples:
        return Cost((two.examples - one.examples) // _SAMPLES, two.backward - one.backward, "the scoring data")
    if not one.forward:
        return Cost(0, 0, "")
    return Cost(one.forward, one.backward, "one example" if one.examples == one.forward else "one batch")


def count(method: str, batches: int) -> Count:
    """Count the calls while `method` prunes half of a small network with `batches` batches of scoring data."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).eval()  # fmt: skip
    data = [(torch.randn(_SAMPLES, 1, 6, 6), torch.arange(_SAMPLES) % 3) for _ in range(batches)]
    examples: list[int] = []
    model.register_forward_hook(lambda _module, inputs, _result: examples.append(len(inputs[0])))

    def checked(task: Task, *arguments: Any, **options: Any) -> Any:
        """Remove the one example that tests whether the data fit the network from the count."""
        result = require_output(task, *arguments, **options)
        examples.pop()
        return result

    require_output = checks.require_output
    with _counted_backward() as backward, mock.patch.object(checks, "require_output", checked):
        pbt_bench.prune(model, data, method=method, sparsity=0.5, chunk=_SAMPLES)
    return Count(len(examples), sum(examples), len(backward))


@contextmanager
def _counted_backward() -> Iterator[list[None]]:
    calls: list[None] = []
    original = torch.autograd.grad

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        return original(*arguments, **options)

    torch.autograd.grad = counted
    try:
        yield calls
    finally:
        torch.autograd.grad = original


def defaults() -> str:
    """Return the defaults of the options that the counts depend on, as text."""
    options = {name: option for _, entry in statistics().items() for name, option in entry.options.items()}
    return ", ".join(
        f"{options[name].default} {name.replace('_', ' ')}" for name in ("probes", "perturbations", "inner_steps")
    )
