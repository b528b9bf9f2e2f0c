"""The channel graph of a network: which channels feed which, recorded by running the network once.

A channel set is the channels of one tensor: of the input, of the output of a linear map, or of a tensor whose channels
were moved or summed. Synapses join the channel sets at both ends of a linear map; wires join channels that carry the
same signal, without a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pbt_bench.connectivity.torch_calls import changed, names, tensors
from pbt_bench.errors import RequestError
from pbt_bench.linear_maps import Intercept

KEEPS_CHANNELS = names("""
    batch_norm group_norm instance_norm layer_norm rms_norm local_response_norm normalize
    relu relu_ leaky_relu leaky_relu_ relu6 elu elu_ selu selu_ celu celu_ gelu silu silu_ mish hardswish hardtanh
    hardtanh_ hardsigmoid softplus softsign tanh sigmoid logsigmoid prelu threshold softmax log_softmax
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    mean sum interpolate clamp abs square neg __neg__ contiguous clone detach to float double
    mul mul_ __mul__ __rmul__ __imul__ div div_ __truediv__ __itruediv__
""")
ADDS = names("add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__ __isub__")
MOVES_CHANNELS = names("""
    flatten view view_as reshape reshape_as unflatten squeeze unsqueeze __getitem__ select narrow chunk split
    cat concat concatenate pad permute transpose movedim flip roll index_select
""")


@dataclass(frozen=True)
class Synapses:
    """A linear map between two channel sets: channel c of group g feeds channel o of group g by weight[g, o, c, :]."""

    source: int
    target: int
    weight: Tensor  # [groups, outputs per group, inputs per group, kernel positions], the weight's memory order
    name: str | None  # None: not prunable


@dataclass(frozen=True)
class Wire:
    """Channel j of `target` is (or, where several wires end, adds) channel index[j] of `source`; -1 = nothing."""

    source: int
    target: int
    index: Tensor  # [channels of target]


@dataclass
class Graph:
    """Channel sets by number, of which 0 is the input; every edge leads from a lower to a higher number."""

    channels: list[int] = field(default_factory=list)  # size of each channel set
    edges: list[Synapses | Wire] = field(default_factory=list)
    output: int = 0

    def add(self, channels: int) -> int:
        """Add a channel set and return its number."""
        self.channels.append(channels)
        return len(self.channels) - 1


def channel_graph(model: nn.Module, tracked: Mapping[str, Tensor], inputs: Tensor, user: str) -> Graph:
    """Return the graph of `model`, in eval mode, for one example of ones in the shape of `inputs[:1]`.

    Channels are dimension 1 of every tensor. Raises RequestError, naming `user` (who needs the graph) and the function
    at which channels cannot be followed.
    """
    if not inputs.is_floating_point() or inputs.dim() < 2:
        raise RequestError(f"{user} needs inputs of shape [n, channels, ...], not {inputs.dtype} {inputs.shape}")
    recorder = _Recorder(tracked, user)
    dtype = next(iter(tracked.values())).dtype
    ones = torch.ones((1, *inputs.shape[1:]), dtype=dtype, device=inputs.device)
    recorder.put(ones, recorder.graph.add(ones.shape[1]))
    with torch.no_grad(), recorder:
        output = model(ones)
    found = recorder.channel_set(output)
    if found is None:
        raise RequestError(f"{user} needs one output tensor that depends on the input")
    recorder.graph.output = found
    return recorder.graph


class _Recorder(Intercept):
    """Runs the network and records the channel set of every tensor that depends on the input."""

    def __init__(self, tracked: Mapping[str, Tensor], user: str) -> None:
        super().__init__(tracked)
        self._user = user
        self.graph = Graph()
        self._weights = {id(t) for t in tracked.values()}
        self._sets: dict[int, tuple[Tensor, int]] = {}  # by id; holding the tensor keeps its id unique

    def channel_set(self, value: Any) -> int | None:
        """Return the channel set of a tensor, or None if the value does not depend on the input."""
        return self._sets[id(value)][1] if id(value) in self._sets else None

    def put(self, tensor: Tensor, channel_set: int) -> None:
        """Record the channel set of a tensor."""
        self._sets[id(tensor)] = (tensor, channel_set)

    def _refuse(
        self, function: Any, what: str = "channels that can be followed from one linear map to the next"
    ) -> NoReturn:
        name = getattr(function, "__name__", function)
        raise RequestError(f"{self._user} needs {what}, but the network calls {name!r}")

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        return self._linear_map(name, function, inputs, weight, bias, options)

    def untracked(
        self, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        return self._linear_map(None, function, inputs, weight, bias, options)

    def _linear_map(
        self, name: str | None, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        result = function(inputs, weight, bias, **options)
        if self.channel_set(weight) is not None:
            self._refuse(function, "weights that do not depend on the input")
        source = self.channel_set(inputs)
        if source is not None:
            if inputs.dim() != weight.dim():
                self._refuse(function, "inputs of shape [n, channels, ...] (a linear layer over tokens has others)")
            groups = int(options.get("groups", 1))
            target = self.graph.add(len(weight))
            shape = (groups, len(weight) // groups, weight.shape[1], -1)
            self.graph.edges.append(Synapses(source, target, weight.detach().reshape(shape), name))
            self.put(result, target)
        return result

    def multi_head_attention(self, given: dict[str, Any]) -> NoReturn:
        self._refuse(F.multi_head_attention_forward)

    def other(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        result = function(*args, **options)
        given = list(tensors((args, list(options.values()))))
        if any(id(t) in self._weights and t is not result for t in given) and list(tensors(result)):
            self._refuse(function, "prunable weights used as they are, not transformed")
        sets = [found for t in given if (found := self.channel_set(t)) is not None]
        if not sets or (result is not None and not list(tensors(result))):
            return result
        name = getattr(function, "__name__", str(function))
        if name in MOVES_CHANNELS:
            self._move(function, args, options, sorted(set(sets)), result)
            return result
        if not isinstance(result, Tensor):
            self._refuse(function)
        channels = self.graph.channels[sets[0]]
        if name in ("mean", "sum") and not _over_space(given[0], args, options):
            self._refuse(function, "channels that are not averaged")
        if result.dim() < 2 or len(result) != 1 or result.shape[1] != channels:
            self._refuse(function)
        if len(sets) == 1 and name in KEEPS_CHANNELS | ADDS:
            self.put(result, sets[0])
        elif name in ADDS and all(self.graph.channels[s] == channels for s in sets):
            if any(t.dim() != result.dim() for t in given if self.channel_set(t) is not None):
                self._refuse(function)
            target = self.graph.add(channels)
            self.graph.edges += [Wire(source, target, torch.arange(channels)) for source in sets]
            self.put(result, target)
        else:
            self._refuse(function)
        return result

    def _move(
        self, function: Callable[..., Any], args: Any, options: dict[str, Any], sets: list[int], result: Any
    ) -> None:
        """Follow a function that only moves values: apply it to tensors that hold the number of their channel."""
        counts = [self.graph.channels[source] for source in sets]
        offsets = dict(zip(sets, torch.tensor([0, *counts]).cumsum(0).tolist(), strict=False))

        def label(value: Tensor) -> Tensor:
            if not value.is_floating_point():
                return value
            source = self.channel_set(value)
            if source is None:
                return torch.zeros_like(value, dtype=torch.float64, device="cpu")
            numbers: Tensor = torch.arange(1, value.shape[1] + 1, dtype=torch.float64) + offsets[source]
            return numbers.view(1, -1, *[1] * (value.dim() - 2)).expand(value.shape).contiguous()

        labels = function(*changed(args, label), **changed(options, label))
        for tensor, moved in zip(tensors(result), tensors(labels), strict=True):
            if moved.dim() < 2 or len(moved) != 1 or not moved.numel():
                self._refuse(function)
            flat = moved.reshape(moved.shape[1], -1)
            number, _ = flat.max(1)
            if not bool(((flat == number[:, None]) | (flat == 0)).all()):
                self._refuse(function, "channels that stay on dimension 1")
            wires = []
            for source, count in zip(sets, counts, strict=True):
                index = number.long() - 1 - offsets[source]
                wires.append((source, index.where((index >= 0) & (index < count), -1)))
            if len(wires) == 1 and torch.equal(wires[0][1], torch.arange(counts[0])):
                self.put(tensor, sets[0])
                continue
            target = self.graph.add(len(number))
            self.graph.edges += [Wire(source, target, index) for source, index in wires]
            self.put(tensor, target)


def _over_space(tensor: Tensor, args: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
    """Return whether a reduction keeps dimensions 0 and 1."""
    dims = args[1] if len(args) > 1 else options.get("dim")
    dims = (dims,) if isinstance(dims, int) else dims
    return dims is not None and len(dims) > 0 and all(d % tensor.dim() > 1 for d in dims)
