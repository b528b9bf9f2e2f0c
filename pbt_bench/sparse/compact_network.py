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
from pbt_bench.sparse import kernels, memory_format, sparse_convolution, tuning
from pbt_bench.sparse.kept_weights import KeptWeights
from pbt_bench.sparse.live_channels import Live, all_channels, indices_among, per_channel, shared, take


class _Block(torch.autograd.Function):
    """Select the rows `outputs` and columns `inputs` of a weight [o, i, ...]."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(weight, outputs, inputs)
        return weight.index_select(0, outputs).index_select(1, inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        weight, outputs, inputs = ctx.saved_tensors
        rows = torch.zeros_like(weight[: len(outputs)]).index_copy_(1, inputs, gradient)
        return torch.zeros_like(weight).index_copy_(0, outputs, rows), None, None


@lru_cache(maxsize=1 << 12)
def _reads(read: Tensor, inputs: Tensor) -> Tensor:
    """Return the channels of `inputs` to select so that they hold all channels of `read`."""
    return inputs[filled(torch.isin(inputs, read))]


def filled(chosen: Tensor) -> Tensor:
    """Return the chosen channels, filled up to a multiple of CHANNEL_STEP; all channels if that is most of them."""
    count, channels = int(chosen.sum()), len(chosen)
    count = max(1, -(-count // tuning.CHANNEL_STEP)) * tuning.CHANNEL_STEP
    if count > tuning.FEW_CHANNELS * channels:
        count = channels
    return (~chosen).long().argsort(stable=True)[:count].sort().values


class _Plan:
    """How one convolution is executed: the channels that kept weights join, and a vector of its kept weights if few."""

    def __init__(self, mask: Tensor) -> None:
        pairs = mask.flatten(2).any(2)
        self.outputs = filled(pairs.any(1))
        self.inputs = pairs.any(0).nonzero().flatten()
        self.whole = len(self.outputs) == len(pairs)
        self.weights, self.kept_count = mask.numel(), int(mask.sum())
        self.saved = mask.numel() - len(self.outputs) * int(filled(pairs.any(0)).numel()) * mask[0, 0].numel()
        self.kept: KeptWeights | None = None
        self._mask = mask
        self._patterns: dict[Any, sparse_convolution.Pattern] = {}

    def saves_most(self, inputs: int, outputs: int) -> float:
        """Return an upper bound of the multiply-adds saved per example, given the numbers of positions."""
        return max(self.saved * inputs, (self.weights - tuning.KEPT_COST * self.kept_count) * outputs)

    def multiplies_weights(self, x: Live | Tensor, options: Mapping[str, Any], least: int) -> bool:
        """Return whether multiplying kept weights alone saves at least `least` multiply-adds."""
        values = x.values if isinstance(x, Live) else x
        if self.kept is None or values.dtype != self.kept.vector.dtype or not kernels.takes(values):
            return False
        if torch.is_autocast_enabled("cpu") or (least and len(values) < tuning.LEAST_EXAMPLES):
            return False
        try:
            stride, padding, dilation, _ = conv_geometry(options, self._mask)
        except NotImplementedError:  # asymmetric padding
            return False
        sizes = out_sizes(values.shape[2:], self._mask.shape[2:], stride, padding, dilation)
        outputs = len(values) * math.prod(sizes)
        move = tuning.MOVE_COST * values.numel() * (-1 if memory_format.is_batch_last(values) else 1)
        return bool((self.weights - self.saved - tuning.KEPT_COST * self.kept_count) * outputs - move >= least)

    def pattern(self, inputs: Tensor, sizes: torch.Size, options: Mapping[str, Any]) -> sparse_convolution.Pattern:
        """Return the pattern of the kept weights that read the channels `inputs` of activations of one size."""
        stride, padding, dilation, _ = conv_geometry(options, self._mask)
        key = (inputs, sizes, *map(tuple, (stride, padding, dilation)))
        if key not in self._patterns:
            assert self.kept is not None
            indices = self._mask.nonzero()
            indices = indices[torch.isin(indices[:, 1], inputs)]
            slots = self.kept.slots(indices)
            for column, channels in ((0, self.outputs), (1, inputs)):
                indices[:, column] = torch.searchsorted(channels, indices[:, column].contiguous())
            shape = (len(self.outputs), len(inputs), *self._mask.shape[2:])
            self._patterns[key] = sparse_convolution.Pattern(indices, slots, shape, sizes, (stride, padding, dilation))
        return self._patterns[key]


class Compact:
    """Execute the masked convolutions (of one group) of `model` without their pruned weights, inside a `with` block.

    With `always` every masked convolution is executed so; otherwise only those where it saves at least
    `tuning.LEAST_SAVING` multiply-adds in a forward pass of `batch` examples like `example` [1, ...]. The choice
    depends on masks and shapes, never on timings, so a run does the same on every machine of a type. `kept` maps names
    to the kept weights of sparse tensors as vectors: the optimiser updates these, and a convolution that multiplies
    kept weights alone writes its gradient there.
    """

    def __init__(
        self, model: nn.Module, masks: Masks, example: Tensor | None = None, batch: int = 0, always: bool = False
    ) -> None:
        convolutions = {
            f"{path}.weight" if path else "weight": module
            for path, module in model.named_modules()
            if type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and module.groups == 1
        }
        self._least = 0 if always else tuning.LEAST_SAVING
        plans = {name: _Plan(masks[name]) for name in convolutions if name in masks}
        if not always:
            assert example is not None
            sizes = _sizes(model, {convolutions[name] for name in plans}, example)
            plans = {
                name: plan
                for name, plan in plans.items()
                if plan.saves_most(*sizes.get(convolutions[name], (0, 0))) * batch >= tuning.LEAST_SAVING
            }
        parameters = dict(model.named_parameters())
        self.kept = {
            name: KeptWeights(parameters[name], mask)
            for name, mask in masks.items()
            if int(mask.sum()) <= tuning.FEW_KEPT * mask.numel()
            and (name in plans or always or mask.numel() >= tuning.LARGE_TENSOR)
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
    """Execute the convolution with one weight by its plan; leave other functions that the module calls unchanged."""

    def __init__(self, least: int, weight: Tensor, plan: _Plan) -> None:
        super().__init__()
        self._least, self._weight, self._plan = least, weight, plan

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, plan = kwargs or {}, self._plan
        if function in CONVOLUTIONS:
            x, weight, bias, options = split_call(args, kwargs)
            if weight is self._weight and x.dim() == weight.dim():  # PyTorch takes an example without a batch dimension
                if plan.multiplies_weights(x, options, self._least):
                    return _convolve_live(function, plan, x, weight, bias, options, weights=True)
                if plan.saved and plan.saved * x.shape[0] * x.shape[2:].numel() >= self._least:
                    return _convolve_live(function, plan, x, weight, bias, options, weights=False)
        return function(*args, **kwargs)


@torch.no_grad()
def _sizes(model: nn.Module, modules: Collection[nn.Module], example: Tensor) -> dict[nn.Module, tuple[int, int]]:
    """Return the numbers of input and output positions per module, the largest of several uses. Sets eval mode."""
    found: dict[nn.Module, tuple[int, int]] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        now = inputs[0].shape[2:].numel(), output.shape[2:].numel()
        found[module] = max(found.get(module, now), now)

    hooks = [module.register_forward_hook(record) for module in modules]
    model.eval()(example)
    for hook in hooks:
        hook.remove()
    return found


def _known_zero(constant: Tensor, channels: Tensor) -> bool:
    """Return whether the constants of these channels are all zero; False on a GPU, where reading them would wait."""
    return constant.device.type == "cpu" and not bool(constant.detach()[channels].any())


def _convolve_live(
    function: Any, plan: _Plan, x: Any, weight: Tensor, bias: Tensor | None, options: Mapping[str, Any], weights: bool
) -> Any:
    outputs, inputs, fixed = plan.outputs, all_channels(weight.shape[1], weight.device), None
    read = plan.inputs
    if isinstance(x, Live):
        inputs, constant = x.index, x.constants
        read, silent = shared(plan.inputs, x.index)
        if constant is not None and len(silent) and not (x.still and _known_zero(constant, silent)):
            image = per_channel(constant.index_select(0, silent), x.values).expand(1, -1, *x.shape[2:])
            fixed = function(image, _Block.apply(weight, outputs, silent), None, **options)
        x = x.values
    some = None if bias is None else bias.index_select(0, outputs)
    if weights:
        assert plan.kept is not None
        pattern = plan.pattern(inputs, x.shape[2:], options)
        x = memory_format.move(x, memory_format.batch_last(x.dim()))
        values = sparse_convolution.convolve(x, plan.kept.vector, pattern)
        values = values if some is None else values + per_channel(some, values)
    else:
        if memory_format.is_batch_last(x):
            x = memory_format.move(x, memory_format.channels_last(x.dim()))
        read = _reads(read, inputs)
        if len(read) < len(inputs):
            x = take(x, indices_among(read, inputs))
            inputs = read
        if plan.whole and len(inputs) == weight.shape[1]:
            return function(x, weight, bias, **options)
        values = function(x, _Block.apply(weight, outputs, inputs), some, **options)
    values = values if fixed is None else values + fixed
    if plan.whole and not weights:
        return values
    return Live(values, outputs, len(weight), bias, still=bias is None)
