"""Masks whose kept weights are placed so that they lie on paths from input to output (minimum connection assurance)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, prod
from typing import Annotated, Any

import torch
from torch import Tensor

from pbt_bench.connectivity.channel_graph import Graph, Wire, channel_graph
from pbt_bench.constraints import one_of
from pbt_bench.errors import RequestError
from pbt_bench.linear_maps import CONVOLUTIONS, LINEAR_MAPS, TRANSPOSED, Intercept
from pbt_bench.pruning import checks
from pbt_bench.pruning.masks import quotas
from pbt_bench.pruning.plugins import statistic
from pbt_bench.pruning.statistics.node_paths import Unnormalised
from pbt_bench.pruning.task import Task, Tensors


@statistic(
    cite="Minimum Connection Assurance (MiCA), TMLR 2024",
    data=False,
    per_sparsity=True,
    symbol=r"M_A",
    formula=r"M_A = \text{random, but each live input and each chosen output has a weight while weights last}",
)
def assured_mask(
    task: Task,
    *,
    layer_counts: str = "erk",
    output_channels: Annotated[str, one_of("max", "min", "rand")] = "rand",
) -> Tensors:
    """Choose the weights of every layer so that they lie on paths from input to output where their number allows it.

    A layer keeps the number of weights that the scope `layer_counts` gives it. From the output back, each layer is
    given a number of output channels that the layers behind it can use: for n weights of k kernel positions and j
    outputs, n / k ("max"), n / j ("min") or a random number between them ("rand") of input channels. From the input on,
    weights first join each input that is not zero for an input of ones to one of the first channels, then are random
    between these, then random.

    Raises RequestError for networks in which channels cannot be followed, and for convolutions with groups.
    """
    checks.require_real_inputs(task, "assured_mask")
    generator = task.generator("mica")
    assert task.kept is not None
    kept = quotas({name: tuple(p.shape) for name, p in task.parameters.items()}, task.kept, layer_counts)
    graph = channel_graph(task.model, task.parameters, task.batches[0][0], "assured_mask")
    outputs, last = _output_channels(graph, kept, output_channels, generator)
    inputs = task.batches[0][0]
    placement = _Placement(task.parameters, kept, outputs, last, generator)
    with placement, Unnormalised(), torch.no_grad():
        parameter = next(iter(task.parameters.values()))
        task.model(torch.ones((1, *inputs.shape[1:]), dtype=parameter.dtype, device=inputs.device))
    return {
        name: placement.masks.get(name, torch.arange(p.numel()).view(p.shape) < kept[name]).to(p.device)
        for name, p in task.parameters.items()
    }


def _output_channels(
    graph: Graph, kept: Mapping[str, int], choice: str, generator: torch.Generator
) -> tuple[dict[str, int], set[str]]:
    """Return the number of output channels that each layer is to use, and the layers of the network's output."""
    used = [0] * len(graph.channels)
    used[graph.output] = graph.channels[graph.output]
    outputs, last = {}, set()
    for number in reversed(range(len(used))):
        for edge in reversed([edge for edge in graph.edges if edge.target == number]):
            size = graph.channels[edge.source]
            if isinstance(edge, Wire):
                wanted = ceil(used[number] * len(set(edge.index[edge.index >= 0].tolist())) / graph.channels[number])
            elif edge.name is None:
                wanted = size
            else:
                groups, per_group, fan_in, positions = edge.weight.shape
                if groups > 1:
                    raise RequestError(f"assured_mask needs convolutions without groups, but {edge.name} has {groups}")
                count = kept[edge.name]
                outputs[edge.name] = max(0, min(used[number], count, per_group))
                last |= {edge.name} if number == graph.output else set()
                wanted = min(fan_in, _wanted(count, outputs[edge.name], positions, choice, generator))
            used[edge.source] = max(used[edge.source], min(size, wanted))
    return outputs, last


def _wanted(count: int, outputs: int, positions: int, choice: str, generator: torch.Generator) -> int:
    """Return the number of input channels for `count` weights."""
    if outputs == 0:
        return 0
    low, high = ceil(count / outputs), count // positions
    if count / outputs > high or choice == "min":
        return low
    return high if choice == "max" else int(torch.randint(low, high + 1, (1,), generator=generator))


class _Placement(Intercept):
    """Choose the mask of each layer when the network reaches it, and go on with what its mask lets through."""

    maps = (*LINEAR_MAPS, *TRANSPOSED)

    def __init__(
        self,
        tracked: Mapping[str, Tensor],
        kept: Mapping[str, int],
        outputs: Mapping[str, int],
        last: set[str],
        generator: torch.Generator,
    ) -> None:
        super().__init__(tracked)
        self.masks: Tensors = {}
        self._kept, self._outputs, self._last, self._generator = kept, outputs, last, generator

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        inputs = (inputs != 0).to(inputs.dtype)
        if name not in self.masks:
            with torch.enable_grad():  # the derivative by a weight is the sum of its inputs
                leaf = weight.detach().requires_grad_()
                (reached,) = torch.autograd.grad(function(inputs, leaf, None, **options).sum(), leaf)
            live = reached[0].flatten().nonzero()[:, 0].cpu()
            mask = self._placed(name, weight.shape, live, function in CONVOLUTIONS)
            self.masks[name] = mask.view(weight.shape).to(weight.device)
        return (function(inputs, self.masks[name].to(inputs.dtype), None, **options) != 0).to(inputs.dtype)

    def untracked(
        self, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        return function(inputs, torch.ones_like(weight), None, **options)

    def _placed(self, name: str, shape: torch.Size, live: Tensor, convolution: bool) -> Tensor:
        """Return the mask, flat; the draws have the order of the published code."""
        rows, columns = shape[0], prod(shape[1:])

        def permutation(size: int) -> Tensor:
            return torch.randperm(size, generator=self._generator)

        def repeated(indices: Tensor, size: int, number: int) -> Tensor:
            weights = torch.zeros(size, dtype=torch.float64).index_fill_(0, indices, 1 / len(indices))
            return torch.multinomial(weights, number, replacement=True, generator=self._generator)

        rank = permutation(rows * columns).view(rows, columns)
        if len(live):
            rank += rows * len(live)
            rank[:, live] = permutation(rows * len(live)).view(rows, len(live))
            number = max(1, min(rows, self._kept[name], self._outputs[name]))
            chosen = permutation(rows)[:number] if name in self._last else torch.arange(number)
            rank += number * len(live)
            rank[chosen.repeat(len(live)), live.repeat_interleave(number)] = permutation(number * len(live))
            order = live[permutation(len(live))]
            if convolution:  # one kernel position of every channel first
                first: dict[int, int] = {}
                for index in order.tolist():
                    first.setdefault(index // (columns // shape[1]), index)
                begin = [first[channel] for channel in sorted(first)]
                taken = set(begin)
                order = torch.tensor([*begin, *(index for index in order.tolist() if index not in taken)])
            if number > len(live):
                order = torch.cat([order, repeated(live, columns, number - len(live))])
            elif number < len(live):
                chosen = torch.cat([chosen, repeated(chosen, rows, len(live) - number)])
            rank += len(chosen)
            rank[chosen, order] = torch.arange(len(chosen))
        mask = torch.zeros(rows * columns, dtype=torch.bool)
        return mask.index_fill_(0, rank.flatten().argsort()[: self._kept[name]], True)
