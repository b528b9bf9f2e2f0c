"""Masks that balance the numbers of used channels, kernels and paths, layer by layer (node-path balancing)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from pbt_bench.constraints import at_least, between
from pbt_bench.linear_maps import LINEAR_MAPS, TRANSPOSED, Intercept
from pbt_bench.pruning import checks
from pbt_bench.pruning.masks import quotas
from pbt_bench.pruning.plugins import statistic
from pbt_bench.pruning.task import Task, Tensors

_NORMALISATIONS = (F.batch_norm, F.group_norm, F.instance_norm, F.layer_norm)


@statistic(
    cite="Pham et al. 2023, NeurIPS, OpenReview xdOoCWCYaY",
    data=False,
    per_sparsity=True,
    symbol=r"M",
    formula=r"M = \arg\max_{\vert M \vert = n} \; \alpha \frac{\text{channels}}{C_{in} + C_{out}} + (1 - \alpha) "
    r"\frac{\text{paths}}{\text{most paths}} + \beta \frac{\text{kernels}}{n}",
)
def node_path_mask(
    task: Task,
    *,
    channel_share: Annotated[float, between(0.0, 1.0)] = 0.01,
    kernel_share: Annotated[float, at_least(0.0)] = 1.0,
) -> Tensors:
    """Choose the mask of every layer, from the input on, that has the best sum of used channels, paths and kernels.

    A layer keeps the number of weights that the scope `erk` gives it. α is `channel_share`, β `kernel_share`, which is
    0 for linear layers. A channel is used if a weight of the layer reads or computes it; a kernel is a pair of an input
    and an output channel with at least one weight; paths lead from the network's input through the weights of the
    layer, on the masks before it. Equal choices are made at random, and so are the positions within a kernel.
    """
    checks.require_real_inputs(task, "node_path_mask")
    generator = task.generator("node paths")
    assert task.kept is not None
    kept = quotas({name: tuple(p.shape) for name, p in task.parameters.items()}, task.kept, "erk")
    tensors = {name: torch.ones_like(p, dtype=torch.float64) for name, p in task.parameters.items()}
    for name, tensor in [*task.model.named_parameters(), *task.model.named_buffers()]:
        bias = name.removesuffix("bias") + "weight" in task.parameters and name.endswith("bias")
        floating = tensor.detach().double() if tensor.is_floating_point() else tensor
        tensors.setdefault(name, torch.zeros_like(floating) if bias else floating)
    inputs = task.batches[0][0]
    ones = torch.ones((1, *inputs.shape[1:]), dtype=torch.float64, device=inputs.device)
    masks = {}
    for name, parameter in task.parameters.items():
        layer = _PathsToInputs({name: tensors[name]})
        with layer, Unnormalised(), torch.no_grad():
            functional_call(task.model, tensors, (ones,))
        shape = layer.grouped(tensors[name])
        groups, outputs, fan_in, positions = shape
        paths = layer.paths.nan_to_num().clamp_min(0).view(groups * fan_in).cpu()
        beta = kernel_share if parameter.dim() > 2 else 0.0
        counts = balanced(paths, groups, outputs, positions, kept[name], channel_share, beta, generator)
        order = torch.rand((groups * fan_in, outputs, positions), generator=generator).argsort(2).argsort(2)
        mask = (order < counts.unsqueeze(2)).view(groups, fan_in, outputs, positions)
        masks[name] = layer.ungrouped(mask, tensors[name]).to(parameter.device)
        tensors[name] = masks[name].double()
    return masks


def balanced(
    paths: Tensor,
    groups: int,
    outputs: int,
    positions: int,
    kept: int,
    alpha: float,
    beta: float,
    generator: torch.Generator,
) -> Tensor:
    """Return the number of weights of every kernel, [inputs, outputs of a group], that sums to `kept`.

    The gain of a weight does not depend on its output, and falls with the number of weights of its input: the first one
    uses the input, the first in a kernel the kernel. Weights of an input go to its outputs in turn, so that as many
    outputs as possible are used. Therefore the weights of the largest gains are a best choice.
    """
    total = paths.sum()
    full = kept // (outputs * positions)
    ordered = paths.sort(descending=True).values
    most = (ordered[:full].sum() if full else total) * outputs * positions  # all paths if n is small, as in the code
    most = most + (kept - full * outputs * positions) * (ordered[full] if full < len(paths) else 0.0)
    value = (1 - alpha) * paths / most.clamp_min(1e-300)
    kernel = beta / max(kept, 1)
    gains = torch.stack([value + kernel + alpha / (len(paths) + outputs * groups), value + kernel, value], 1)
    sizes = torch.tensor([1, outputs - 1, outputs * (positions - 1)]).repeat(len(paths), 1)
    rows = torch.randperm(len(paths), generator=generator)
    order = gains[rows].flatten().argsort(descending=True, stable=True)
    taken = sizes[rows].flatten()[order]
    taken = (kept - (taken.cumsum(0) - taken)).clamp_min(0).minimum(taken)
    used = torch.zeros(3 * len(paths), dtype=torch.int64).scatter_(0, order, taken).view(-1, 3).sum(1)
    counts = torch.zeros(len(paths), outputs, dtype=torch.int64)
    columns = torch.randperm(outputs, generator=generator)
    begin = [0] * groups
    for row, number in zip(rows.tolist(), used.tolist(), strict=True):
        counts[row] = number // outputs
        more, group = number % outputs, row * groups // len(paths)
        counts[row, columns[torch.arange(begin[group], begin[group] + more) % outputs]] += 1
        begin[group] += more
    return counts


class Unnormalised(TorchFunctionMode):
    """Leave out normalisation."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _NORMALISATIONS:
            return args[0] if args else (kwargs or {})["input"]
        return func(*args, **(kwargs or {}))


class _PathsToInputs(Intercept):
    """Add up the inputs of one layer over its positions."""

    maps = (*LINEAR_MAPS, *TRANSPOSED)

    def __init__(self, tracked: Mapping[str, Tensor]) -> None:
        super().__init__(tracked)
        self.paths = torch.zeros(0, dtype=torch.float64)
        self._groups, self._transposed = 1, False

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        self._groups, self._transposed = int(options.get("groups", 1)), function in TRANSPOSED
        channels = inputs.movedim(-1 if function is F.linear else 1, 0).flatten(1)
        self.paths = channels.sum(1)
        return function(inputs, weight, bias, **options)

    def grouped(self, weight: Tensor) -> tuple[int, int, int, int]:
        """Return the numbers of groups, of outputs and inputs of a group, and of kernel positions."""
        first, second = len(weight) // self._groups, weight.shape[1]
        outputs, fan_in = (second, first) if self._transposed else (first, second)
        if not len(self.paths):  # a layer that the network does not use
            self.paths = torch.ones(self._groups * fan_in, dtype=torch.float64)
        return self._groups, outputs, fan_in, weight[0, 0].numel()

    def ungrouped(self, mask: Tensor, weight: Tensor) -> Tensor:
        """Return a mask [groups, inputs, outputs, positions] in the shape of the weight."""
        return (mask if self._transposed else mask.transpose(1, 2)).reshape(weight.shape)
