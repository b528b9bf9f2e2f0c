"""Random walks between the input and the output of a network, thousands at a time.

At a linear map a walk takes the weight w with probability |w| / Σ|w|: forward, Σ runs over all weights out of its unit
(every next unit and kernel index), backward over all weights into it. Where channels are wired without weights, a walk
with several edges to choose from takes each with the same probability. Dead ends are not taken. Units are channels:
neither this code nor the paper checks that a sequence of kernel indices stays inside a small image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pbt_bench.connectivity.channel_graph import Graph, Synapses, Wire
from pbt_bench.errors import RequestError


class Visits(NamedTuple):
    """The weights that walks took at one edge, one weight per walk."""

    name: str
    weights: Tensor  # indices into the flat weight
    walk: Tensor  # number of the walk


class Walks:
    """Random walks on a channel graph: even numbers run from the input to the output, odd numbers back.

    Walks of each direction start at every unit in turn. Raises RequestError, naming `user` (who needs the walks), if no
    path joins input and output.
    """

    def __init__(self, graph: Graph, user: str) -> None:
        self._output = graph.output
        from_input = _connected(graph, backward=False)
        to_output = _connected(graph, backward=True)
        self._forward: list[list[_Step]] = [[] for _ in graph.channels]
        self._backward: list[list[_Step]] = [[] for _ in graph.channels]
        for edge in graph.edges:
            self._forward[edge.source].append(_step(edge, False, to_output))
            self._backward[edge.target].append(_step(edge, True, from_input))
        self._inputs = to_output[0].nonzero()[:, 0]
        self._outputs = from_input[graph.output].nonzero()[:, 0]
        if not len(self._inputs) or not len(self._outputs):
            raise RequestError(f"{user} needs a path from the input to the output")

    def run(self, first: int, count: int, generator: torch.Generator) -> Iterator[Visits]:
        """Yield the weights that walks `first` (an even number) to `first + count - 1` take."""
        even, odd = torch.arange(first, first + count, 2), torch.arange(first + 1, first + count, 2)
        units = self._inputs[even // 2 % len(self._inputs)]
        yield from _run(self._forward, range(self._output), even, units, generator)
        units = self._outputs[odd // 2 % len(self._outputs)]
        yield from _run(self._backward, range(self._output, 0, -1), odd, units, generator)


def _run(
    steps: Sequence[Sequence[_Step]],
    sets: Sequence[int],
    walks: Tensor,
    units: Tensor,
    generator: torch.Generator,
) -> Iterator[Visits]:
    """Walk through the channel sets, in an order that every step follows, from `units` of the first to the last."""
    arrived: dict[int, list[tuple[Tensor, Tensor]]] = {sets[0]: [(walks, units)]} if len(sets) else {}
    for number in sets:
        if number not in arrived:
            continue
        walks, units = (torch.cat(parts) for parts in zip(*arrived.pop(number), strict=True))
        chosen = None
        if len(steps[number]) > 1:
            open_ = torch.stack([step.open[units] for step in steps[number]])
            drawn = (_uniform(len(units), generator) * open_.sum(0)).long()
            chosen = (open_.cumsum(0) > drawn).int().argmax(0)
        for index_of_step, step in enumerate(steps[number]):
            mine = slice(None) if chosen is None else (chosen == index_of_step).nonzero()[:, 0]
            own = walks[mine]
            if len(own):
                onward, index = step.take(units[mine], generator)
                arrived.setdefault(step.to, []).append((own, onward))
                if step.name is not None and index is not None:
                    yield Visits(step.name, index, own)


class _Wires:
    """One edge in one direction: take each wire of a channel with the same probability.

    `to` is the channel set that the edge leads to, `name` that of the weight tensor, if any, and `open` [channels] says
    from which channels the edge leads on. `take` returns the channels reached and indices into the flat weight.
    """

    name = None

    def __init__(self, edge: Wire, backward: bool, allowed: Sequence[Tensor]) -> None:
        self.to = edge.source if backward else edge.target
        target = (edge.index >= 0).nonzero()[:, 0]
        source = edge.index[target]
        here, there = (target, source) if backward else (source, target)
        leads = allowed[self.to][there]
        here, there = here[leads], there[leads]
        self._count = here.bincount(minlength=len(allowed[edge.target if backward else edge.source]))
        self._start = self._count.cumsum(0) - self._count
        self._there = there[here.argsort(stable=True)]
        self.open = self._count > 0

    def take(self, units: Tensor, generator: torch.Generator) -> tuple[Tensor, None]:
        number = (_uniform(len(units), generator) * self._count[units]).long()
        return self._there[self._start[units] + number], None


class _Weights:
    """Like `_Wires`, but take a weight w of the channel's row with probability |w| / Σ|w| (all alike if all are 0).

    The rows' cumulative probabilities, row r shifted by r, are one ascending sequence in which r + u is searched,
    u ~ U(0, 1).
    """

    def __init__(self, edge: Synapses, backward: bool, allowed: Sequence[Tensor]) -> None:
        self.name = edge.name
        self.to = edge.source if backward else edge.target
        self._backward = backward
        self._shape = edge.weight.shape
        groups, outputs, inputs, self._kernel = edge.weight.shape
        self._here, self._there = (outputs, inputs) if backward else (inputs, outputs)
        weight = edge.weight.to("cpu", torch.float64).abs()
        leads = allowed[self.to].view(groups, 1, self._there, 1)
        rows = (weight if backward else weight.transpose(1, 2)) * leads
        empty = rows.sum((2, 3), keepdim=True) == 0
        if bool(empty.any()):
            rows = torch.where(empty, leads.double(), rows)
        ends = rows.reshape(groups * self._here, -1).cumsum(1)
        total = ends[:, -1:].clone()
        self.open = total[:, 0] > 0
        ends /= total.where(total > 0, 1)
        self._row = ends.shape[1]
        self._ends = ends.add_(torch.arange(len(ends))[:, None]).flatten()

    def take(self, units: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        wanted = units + _uniform(len(units), generator)
        order = wanted.argsort()  # neighbours share cache lines
        found = torch.empty_like(units)  # NumPy: PyTorch uses all threads, which is slow on busy cores
        found[order] = torch.from_numpy(np.searchsorted(self._ends.numpy(), wanted[order].numpy(), side="right"))
        column = found - units * self._row
        there, tap = column // self._kernel, column % self._kernel
        group, here = units // self._here, units % self._here
        _, outputs, inputs, _ = self._shape
        o, c = (here, there) if self._backward else (there, here)
        return group * self._there + there, ((group * outputs + o) * inputs + c) * self._kernel + tap


_Step = _Wires | _Weights


def _step(edge: Synapses | Wire, backward: bool, allowed: Sequence[Tensor]) -> _Step:
    return _Wires(edge, backward, allowed) if isinstance(edge, Wire) else _Weights(edge, backward, allowed)


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    """Draw u ~ U(0, 1) in float64, far enough below 1 that n + u < n + 1 and n·u < n for every n up to 2^20."""
    return torch.rand(count, generator=generator, dtype=torch.float64).clamp_(max=1 - 2.0**-32)


def _connected(graph: Graph, backward: bool) -> list[Tensor]:
    """Return, per channel set, the channels (bool) that the input reaches or, if `backward`, that reach the output."""
    found = [torch.zeros(count, dtype=torch.bool) for count in graph.channels]
    found[graph.output if backward else 0][:] = True
    for edge in sorted(graph.edges, key=lambda e: -e.source if backward else e.target):
        there, here = (edge.target, edge.source) if backward else (edge.source, edge.target)
        if isinstance(edge, Synapses):
            groups = len(edge.weight)
            found[here].view(groups, -1).logical_or_(found[there].view(groups, -1).any(1, keepdim=True))
        else:
            wired = edge.index >= 0
            if backward:
                found[here][edge.index[wired & found[there]]] = True
            else:
                found[here][wired] |= found[there][edge.index[wired]]
    return found
