"""Scores that are trained for as many paths, channels and kernels as possible (DPaI)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from pbt_bench.constraints import at_least, between
from pbt_bench.linear_maps import LINEAR_MAPS, TRANSPOSED, Intercept
from pbt_bench.pruning import checks
from pbt_bench.pruning.masks import quotas
from pbt_bench.pruning.plugins import statistic
from pbt_bench.pruning.statistics.path_kernel import RECTIFIERS
from pbt_bench.pruning.statistics.popup_scores import highest
from pbt_bench.pruning.task import Task, Tensors

_FEWEST_PATHS = 1e-300  # if no path is left, all derivatives are 0, and the scores stay as they are
_LEFT_OUT = {F.batch_norm, F.group_norm, F.instance_norm, F.layer_norm, *RECTIFIERS}


@statistic(
    cite="Nguyen et al. 2025, ICLR (DPaI)",
    data=False,
    per_sparsity=True,
    symbol=r"\vert s \vert",
    formula=r"s \leftarrow \mathrm{Adam}\left(s,\; \left(1 - \alpha + \alpha (1 - \beta) u + \alpha \beta v\right) "
    r"\frac{\partial \log P}{\partial m}\, \mathrm{sgn}(s)\right)",
)
def node_path_score(
    task: Task,
    *,
    score_steps: Annotated[int, at_least(0)] = 500,
    score_learning_rate: Annotated[float, at_least(0.0)] = 0.005,
    node_kernel_share: Annotated[float, between(0.0, 1.0)] = 0.99,
    kernel_share: Annotated[float, between(0.0, 1.0)] = 0.5,
) -> Tensors:
    """Train scores s for the sparsity of the run, in float64 and without data, and return |s|.

    The mask m keeps the weights with the highest |s|, as many in a layer as the scope `erk` gives it. P is the sum of
    the outputs for inputs of one, if m replaces the weights, biases are zero, and normalisation and rectifiers are left
    out: the number of paths. The derivative by m is passed on to |s|. α is `node_kernel_share` and β `kernel_share`; u
    is 1 for a weight whose output channel is on no path and 0 otherwise, and v for a weight whose kernel is on none.
    Scores begin as standard normal numbers.

    As in the published code, the input of every layer is divided by its maximum, and the logarithms of the maxima are
    added to that of P. This changes nothing in a chain of layers, but shortcuts are not divided.
    """
    checks.require_real_inputs(task, "node_path_score")
    generator = task.generator("node path scores")
    scores = {
        name: torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)
        for name, weight in task.parameters.items()
    }
    assert task.kept is not None
    kept = quotas({name: tuple(s.shape) for name, s in scores.items()}, task.kept, "erk")
    inputs = task.batches[0][0]
    ones = torch.ones((1, *inputs.shape[1:]), dtype=torch.float64, device=inputs.device)
    tensors = {
        name: tensor.detach().double() if tensor.is_floating_point() else tensor
        for name, tensor in [*task.model.named_parameters(), *task.model.named_buffers()]
    }
    optimizer = torch.optim.Adam(scores.values(), lr=score_learning_rate)
    for _ in range(score_steps):
        masks = {name: highest(score.abs(), kept[name]).requires_grad_() for name, score in scores.items()}
        counted = _Paths(masks)
        with torch.enable_grad(), counted:
            paths = functional_call(task.model, {**tensors, **masks}, (ones,)).sum()
            total = counted.logarithms + paths.clamp_min(_FEWEST_PATHS).log()
            found = torch.autograd.grad(total, list(masks.values()), allow_unused=True, materialize_grads=True)
        for (name, score), gradient in zip(scores.items(), found, strict=True):
            used = gradient.abs() * masks[name].detach()
            kernel_dims = tuple(range(2, used.dim()))
            kernels = used.sum(kernel_dims, keepdim=True) if kernel_dims else used
            channels = counted.by_output(name, used)
            unused = (1 - kernel_share) * (channels == 0).double() + kernel_share * (kernels == 0).double()
            score.grad = -(1 - node_kernel_share + node_kernel_share * unused) * gradient * score.sign()
        optimizer.step()
    return {name: score.abs() for name, score in scores.items()}


class _Paths(Intercept):
    """Divide the input of every layer by its maximum, and leave out biases, normalisation and rectifiers."""

    maps = (*LINEAR_MAPS, *TRANSPOSED)

    def __init__(self, masks: Tensors) -> None:
        super().__init__(masks)
        self.logarithms: Tensor | float = 0.0  # of the maxima, added up
        self._groups: dict[str, int] = {}  # of transposed convolutions

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        if function in TRANSPOSED:
            self._groups[name] = int(options.get("groups", 1))
        return self.untracked(function, inputs, weight, bias, options)

    def untracked(
        self, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        largest = inputs.max()
        largest = largest.where(largest > 0, 1.0)
        self.logarithms = self.logarithms + largest.log()
        return function(inputs / largest, weight, None, **options)

    def other(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if function in _LEFT_OUT:
            return args[0] if args else options["input"]
        return function(*args, **options)

    def by_output(self, name: str, values: Tensor) -> Tensor:
        """Add up `values` of a weight over everything but its output channels, in a shape that broadcasts to them."""
        groups = self._groups.get(name)
        if groups is None:
            return values.flatten(1).sum(1).view(-1, *[1] * (values.dim() - 1))
        inputs, outputs = len(values), values.shape[1]
        by_group = values.view(groups, inputs // groups, outputs, -1).sum((1, 3))
        rest = [1] * (values.dim() - 2)
        return by_group.repeat_interleave(inputs // groups, 0).view(inputs, outputs, *rest)
