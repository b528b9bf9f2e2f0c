"""Which channels of a network feed which: the graph that paths are walked on, found by running the network once.

A place is a set of channels: the input, the output of a linear map, or channels that are moved or summed. Synapses
join the places at both ends of a linear map; wires join channels that carry the same signal, without a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from pbt_bench.errors import RequestError
from pbt_bench.linear_maps import Intercept

_KEPT = """
    batch_norm group_norm instance_norm layer_norm rms_norm local_response_norm normalize
    relu relu_ leaky_relu leaky_relu_ relu6 elu elu_ selu selu_ celu celu_ gelu silu silu_ mish hardswish hardtanh
    hardtanh_ hardsigmoid softplus softsign tanh sigmoid logsigmoid prelu threshold softmax log_softmax
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    mean sum interpolate clamp abs square neg __neg__ contiguous clone detach to float double
    mul mul_ __mul__ __rmul__ __imul__ div div_ __truediv__ __itruediv__
"""
_ADDED = "add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__ __isub__"
_MOVED = """
    flatten view view_as reshape reshape_as unflatten squeeze unsqueeze __getitem__ select narrow chunk split
    cat concat concatenate pad permute transpose movedim flip roll index_select
"""
KEPT, ADDED, MOVED = (frozenset(names.split()) for names in (_KEPT, _ADDED, _MOVED))


@dataclass(frozen=True)
class Synapses:
    """A linear map between two places: channel c of group g feeds channel o of group g by weight[g, o, c, :]."""

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
    """Places by number, every edge from a lower to a higher one; 0 is the input."""

    channels: list[int] = field(default_factory=list)
    edges: list[Synapses | Wire] = field(default_factory=list)
    output: int = 0

    def add(self, channels: int) -> int:
        """The number of a new place."""
        self.channels.append(channels)
        return len(self.channels) - 1


def trace(model: nn.Module, tracked: Mapping[str, Tensor], inputs: Tensor) -> Graph:
    """The graph of `model`, in eval mode, for one example of ones in the shape of `inputs[:1]`.

    Channels are dimension 1 of every tensor. Raises RequestError, naming the function, where they cannot be followed.
    """
    if not inputs.is_floating_point() or inputs.dim() < 2:
        raise RequestError(f"phew: walks need inputs of shape [n, channels, ...], not {inputs.dtype} {inputs.shape}")
    recorder = _Recorder(tracked)
    dtype = next(iter(tracked.values())).dtype
    ones = torch.ones((1, *inputs.shape[1:]), dtype=dtype, device=inputs.device)
    recorder.put(ones, recorder.graph.add(ones.shape[1]))
    with torch.no_grad(), recorder:
        output = model(ones)
    place = recorder.place(output)
    if place is None:
        raise RequestError("phew: walks need one output tensor that depends on the input")
    recorder.graph.output = place
    return recorder.graph


class _Recorder(Intercept):
    """Runs the network and notes the place of every tensor that depends on the input."""

    def __init__(self, tracked: Mapping[str, Tensor]) -> None:
        super().__init__(tracked)
        self.graph = Graph()
        self._weights = {id(t) for t in tracked.values()}
        self._places: dict[int, tuple[Tensor, int]] = {}  # by id; the tensor is held, so that no id comes twice

    def place(self, value: Any) -> int | None:
        """The place of a tensor, None if it does not depend on the input (or is no tensor)."""
        return self._places[id(value)][1] if id(value) in self._places else None

    def put(self, tensor: Tensor, place: int) -> None:
        """Note the place of a tensor."""
        self._places[id(tensor)] = (tensor, place)

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
        if self.place(weight) is not None:
            _refuse(function, "weights that do not depend on the input")
        source = self.place(inputs)
        if source is not None:
            if inputs.dim() != weight.dim():
                _refuse(function, "inputs of shape [n, channels, ...] (a linear layer over tokens has others)")
            groups = int(options.get("groups", 1))
            target = self.graph.add(len(weight))
            shape = (groups, len(weight) // groups, weight.shape[1], -1)
            self.graph.edges.append(Synapses(source, target, weight.detach().reshape(shape), name))
            self.put(result, target)
        return result

    def other(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        result = function(*args, **options)
        given = list(_tensors((args, list(options.values()))))
        if any(id(t) in self._weights and t is not result for t in given) and list(_tensors(result)):
            _refuse(function, "prunable weights used as they are, not transformed")
        places = [place for t in given if (place := self.place(t)) is not None]
        if not places or (result is not None and not list(_tensors(result))):
            return result
        name = getattr(function, "__name__", str(function))
        if name in MOVED:
            self._move(function, args, options, sorted(set(places)), result)
            return result
        if not isinstance(result, Tensor):
            _refuse(function)
        channels = self.graph.channels[places[0]]
        if name in ("mean", "sum") and not _over_space(given[0], args, options):
            _refuse(function, "channels that are not averaged")
        if result.dim() < 2 or len(result) != 1 or result.shape[1] != channels:
            _refuse(function)
        if len(places) == 1 and name in KEPT | ADDED:
            self.put(result, places[0])
        elif name in ADDED and all(self.graph.channels[p] == channels for p in places):
            if any(t.dim() != result.dim() for t in given if self.place(t) is not None):
                _refuse(function)
            target = self.graph.add(channels)
            self.graph.edges += [Wire(place, target, torch.arange(channels)) for place in places]
            self.put(result, target)
        else:
            _refuse(function)
        return result

    def _move(
        self, function: Callable[..., Any], args: Any, options: dict[str, Any], places: list[int], result: Any
    ) -> None:
        """A function that only moves values: do the same to tensors that hold the number of their channel."""
        counts = [self.graph.channels[place] for place in places]
        offsets = dict(zip(places, torch.tensor([0, *counts]).cumsum(0).tolist(), strict=False))

        def label(value: Any) -> Any:
            if isinstance(value, (tuple, list)):
                return type(value)([label(v) for v in value])
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            place = self.place(value)
            if place is None:
                return torch.zeros_like(value, dtype=torch.float64, device="cpu")
            numbers = torch.arange(1, value.shape[1] + 1, dtype=torch.float64) + offsets[place]
            return numbers.view(1, -1, *[1] * (value.dim() - 2)).expand(value.shape).contiguous()

        labels = function(*label(args), **{key: label(value) for key, value in options.items()})
        for tensor, moved in zip(_tensors(result), _tensors(labels), strict=True):
            if moved.dim() < 2 or len(moved) != 1 or not moved.numel():
                _refuse(function)
            flat = moved.reshape(moved.shape[1], -1)
            number, _ = flat.max(1)
            if not bool(((flat == number[:, None]) | (flat == 0)).all()):
                _refuse(function, "channels that stay on dimension 1")
            wires = []
            for place, count in zip(places, counts, strict=True):
                index = number.long() - 1 - offsets[place]
                wires.append((place, index.where((index >= 0) & (index < count), -1)))
            if len(wires) == 1 and torch.equal(wires[0][1], torch.arange(counts[0])):
                self.put(tensor, places[0])
                continue
            target = self.graph.add(len(number))
            self.graph.edges += [Wire(place, target, index) for place, index in wires]
            self.put(tensor, target)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def _over_space(tensor: Tensor, args: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
    """Whether a reduction leaves out dimensions 0 and 1."""
    dims = args[1] if len(args) > 1 else options.get("dim")
    dims = (dims,) if isinstance(dims, int) else dims
    return dims is not None and len(dims) > 0 and all(d % tensor.dim() > 1 for d in dims)


def _refuse(function: Any, what: str = "channels that can be followed from one linear map to the next") -> NoReturn:
    raise RequestError(f"phew: walks need {what}; here the network calls {getattr(function, '__name__', function)!r}")
