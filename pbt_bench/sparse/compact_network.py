"""Execute a masked network without its pruned weights.

On a CPU in float32 or float64, a convolution with few kept weights multiplies these alone (sparse_convolution.py). On
other devices, or with many kept weights, it is executed on its live channels: an output channel whose weights are all
pruned is constant over batch and positions, and an input channel that no kept weight reads changes nothing.
Convolutions then return `Live`: the live channels, and one number for each dead channel. Outputs, gradients and updates
are those of the masked network up to rounding, and the model's code does not change.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pbt_bench.linear_maps import CONVOLUTIONS, conv_geometry, out_sizes, split_call
from pbt_bench.models.prunable import Masks
from pbt_bench.sparse import kernels, memory_format, sparse_convolution
from pbt_bench.sparse.kept_weights import Kept
from pbt_bench.sparse.live_channels import FEW, Live, Take, all_channels, places, row, shared

STEP = 8  # vector kernels take channels by so many
WORTH = 10**8  # multiply-adds of a forward pass that `auto` must save in a layer to take it apart
SPARSE = 0.33  # share of kept weights up to which they are few: to update them alone costs less than to update all
LARGE = 10**5  # weights of a tensor from which that holds for any share of these
EXAMPLES = 32  # in a batch, for kernels that take many at a time
KEPT_COST = 2.3  # of a multiply-add with a kept weight, in those of a dense convolution
MOVE_COST = 30  # of an entry of an activation whose order in memory must change, likewise


class _Block(torch.autograd.Function):
    """The rows `outputs` and columns `inputs` of a weight [o, i, ...]."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
        """A copy."""
        ctx.save_for_backward(weight, outputs, inputs)
        return weight.index_select(0, outputs).index_select(1, inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Zero outside the block."""
        weight, outputs, inputs = ctx.saved_tensors
        rows = torch.zeros_like(weight[: len(outputs)]).index_copy_(1, inputs, gradient)
        return torch.zeros_like(weight).index_copy_(0, outputs, rows), None, None


@lru_cache(maxsize=1 << 12)
def _reads(read: Tensor, inputs: Tensor) -> Tensor:
    """What to take of `inputs` to have `read`."""
    return inputs[filled(torch.isin(inputs, read))]


def filled(chosen: Tensor) -> Tensor:
    """The chosen channels, with some of the others up to a multiple of STEP; all, if that is most of them."""
    count, channels = int(chosen.sum()), len(chosen)
    count = max(1, -(-count // STEP)) * STEP
    if count > FEW * channels:
        count = channels
    return (~chosen).long().argsort(stable=True)[:count].sort().values


class _Plan:
    """One convolution: the channels that a kept weight joins, and its kept weights as a vector, if they are few."""

    def __init__(self, mask: Tensor) -> None:
        pairs = mask.flatten(2).any(2)
        self.outputs = filled(pairs.any(1))
        self.inputs = pairs.any(0).nonzero().flatten()
        self.whole = len(self.outputs) == len(pairs)
        self.weights, self.left = mask.numel(), int(mask.sum())
        self.saved = mask.numel() - len(self.outputs) * int(filled(pairs.any(0)).numel()) * mask[0, 0].numel()
        self.kept: Kept | None = None
        self._mask = mask
        self._patterns: dict[Any, sparse_convolution.Pattern] = {}

    def saves_most(self, inputs: int, outputs: int) -> float:
        """Multiply-adds per example, at most, for so many positions."""
        return max(self.saved * inputs, (self.weights - KEPT_COST * self.left) * outputs)

    def takes_weights(self, x: Live | Tensor, options: Mapping[str, Any], least: int) -> bool:
        """Whether to multiply kept weights alone: if that saves `least` multiply-adds over all other ways."""
        values = x.values if isinstance(x, Live) else x
        if self.kept is None or values.dtype != self.kept.vector.dtype or not kernels.takes(values):
            return False
        if torch.is_autocast_enabled("cpu") or (least and len(values) < EXAMPLES):
            return False
        try:
            stride, padding, dilation, _ = conv_geometry(options, self._mask)
        except NotImplementedError:  # padding that is not the same on both sides
            return False
        sizes = out_sizes(values.shape[2:], self._mask.shape[2:], stride, padding, dilation)
        outputs = len(values) * math.prod(sizes)
        move = MOVE_COST * values.numel() * (-1 if memory_format.is_batch_last(values) else 1)
        return bool((self.weights - self.saved - KEPT_COST * self.left) * outputs - move >= least)

    def pattern(self, inputs: Tensor, sizes: torch.Size, options: Mapping[str, Any]) -> sparse_convolution.Pattern:
        """Of the kept weights that read the channels `inputs` of activations of a size."""
        stride, padding, dilation, _ = conv_geometry(options, self._mask)
        key = (inputs, sizes, *map(tuple, (stride, padding, dilation)))
        if key not in self._patterns:
            assert self.kept is not None
            places = self._mask.nonzero()
            places = places[torch.isin(places[:, 1], inputs)]
            slots = self.kept.slots(places)
            for column, channels in ((0, self.outputs), (1, inputs)):
                places[:, column] = torch.searchsorted(channels, places[:, column].contiguous())
            shape = (len(self.outputs), len(inputs), *self._mask.shape[2:])
            self._patterns[key] = sparse_convolution.Pattern(places, slots, shape, sizes, (stride, padding, dilation))
        return self._patterns[key]


class Compact:
    """While active, the masked convolutions of `model` (of one group) are executed on what is left of them.

    All of them with `always`; otherwise those where that saves at least WORTH multiply-adds in a forward pass of
    `batch` examples like `example` [1, ...]: by the mask and the shapes alone, never by a timing, so that the same run
    does the same on every machine of a type. `kept` holds the kept weights of sparse tensors as vectors, by name: the
    optimiser is to update these, and a convolution that multiplies them alone has its gradient there.
    """

    def __init__(
        self, model: nn.Module, masks: Masks, example: Tensor | None = None, batch: int = 0, always: bool = False
    ) -> None:
        convolutions = {
            f"{path}.weight" if path else "weight": module
            for path, module in model.named_modules()
            if type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and module.groups == 1
        }
        self._least = 0 if always else WORTH
        plans = {name: _Plan(masks[name]) for name in convolutions if name in masks}
        if not always:
            assert example is not None
            sizes = _sizes(model, {convolutions[name] for name in plans}, example)
            plans = {
                name: plan
                for name, plan in plans.items()
                if plan.saves_most(*sizes.get(convolutions[name], (0, 0))) * batch >= WORTH
            }
        parameters = dict(model.named_parameters())
        self.kept = {
            name: Kept(parameters[name], mask)
            for name, mask in masks.items()
            if int(mask.sum()) <= SPARSE * mask.numel() and (name in plans or always or mask.numel() >= LARGE)
        }
        for name, plan in plans.items():
            plan.kept = self.kept.get(name)
        self.plans = {convolutions[name]: plan for name, plan in plans.items() if plan.saved or plan.kept}

    def __enter__(self) -> Compact:
        for module, plan in self.plans.items():
            module.forward = partial(self._forward, module, plan)
        return self

    def __exit__(self, *_: object) -> None:
        for module in self.plans:
            del module.forward

    def _forward(self, module: Any, plan: _Plan, x: Any) -> Any:
        with _Convolutions(self._least, module.weight, plan):
            return type(module).forward(module, x)


class _Convolutions(TorchFunctionMode):
    """Executes the convolution with one weight by its plan, whatever else the module does with its inputs."""

    def __init__(self, least: int, weight: Tensor, plan: _Plan) -> None:
        super().__init__()
        self._least, self._weight, self._plan = least, weight, plan

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, plan = kwargs or {}, self._plan
        if function in CONVOLUTIONS:
            x, weight, bias, options = split_call(args, kwargs)
            if weight is self._weight and x.dim() == weight.dim():  # not one example without a batch
                if plan.takes_weights(x, options, self._least):
                    return _convolve(function, plan, x, weight, bias, options, weights=True)
                if plan.saved and plan.saved * x.shape[0] * x.shape[2:].numel() >= self._least:
                    return _convolve(function, plan, x, weight, bias, options, weights=False)
        return function(*args, **kwargs)


@torch.no_grad()
def _sizes(model: nn.Module, modules: Collection[nn.Module], example: Tensor) -> dict[nn.Module, tuple[int, int]]:
    """Positions of inputs and outputs of modules, the most if they are used more than once. Leaves eval mode."""
    found: dict[nn.Module, tuple[int, int]] = {}

    def see(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        now = inputs[0].shape[2:].numel(), output.shape[2:].numel()
        found[module] = max(found.get(module, now), now)

    hooks = [module.register_forward_hook(see) for module in modules]
    model.eval()(example)
    for hook in hooks:
        hook.remove()
    return found


def _seen_zero(constant: Tensor, channels: Tensor) -> bool:
    """Whether the constants of these channels are all zero, where looking makes nobody wait: on a CPU."""
    return constant.device.type == "cpu" and not bool(constant.detach()[channels].any())


def _convolve(
    function: Any, plan: _Plan, x: Any, weight: Tensor, bias: Tensor | None, options: Mapping[str, Any], weights: bool
) -> Any:
    outputs, inputs, fixed = plan.outputs, all_channels(weight.shape[1], weight.device), None
    read = plan.inputs
    if isinstance(x, Live):
        inputs, constant = x.index, x.constants
        read, silent = shared(plan.inputs, x.index)
        if constant is not None and len(silent) and not (x.still and _seen_zero(constant, silent)):
            image = row(constant.index_select(0, silent), x.values).expand(1, -1, *x.shape[2:])
            fixed = function(image, _Block.apply(weight, outputs, silent), None, **options)
        x = x.values
    some = None if bias is None else bias.index_select(0, outputs)
    if weights:
        assert plan.kept is not None
        pattern = plan.pattern(inputs, x.shape[2:], options)
        values = sparse_convolution.convolve(
            memory_format.move(x, memory_format.batch_last(x.dim())), plan.kept.vector, pattern
        )
        values = values if some is None else values + row(some, values)
    else:
        if memory_format.is_batch_last(x):
            x = memory_format.move(x, memory_format.channels_last(x.dim()))
        read = _reads(read, inputs)
        if len(read) < len(inputs):
            x = Take.apply(x, places(read, inputs))
            inputs = read
        if plan.whole and len(inputs) == weight.shape[1]:
            return function(x, weight, bias, **options)
        values = function(x, _Block.apply(weight, outputs, inputs), some, **options)
    values = values if fixed is None else values + fixed
    if plan.whole and not weights:
        return values
    return Live(values, outputs, len(weight), bias, still=bias is None)
