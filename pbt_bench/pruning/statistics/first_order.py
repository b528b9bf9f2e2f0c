"""Gradient and empirical Fisher diagonal out of one forward and backward pass over the scoring data.

Each batch is propagated once. Where the backward pass reaches a prunable linear map, its inputs and output
gradients give the gradient of every group of `fisher_batch_size` samples as one matrix product; a block of
them is squared, summed and dropped, so no more than `BLOCK_BYTES` of them exist at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pbt_bench.errors import RequestError
from pbt_bench.pruning import batchnorm
from pbt_bench.pruning.intercept import Intercept, conv_geometry, patches
from pbt_bench.pruning.statistics import Task, Tensors, provides

BLOCK_BYTES = 64 * 2**20  # of group gradients held at a time

_FISHER = "empirical Fisher diagonal; Navarrete et al. 2025, arXiv:2502.11450, Eq. 8"


@provides(data=True, gradient="mean gradient of the cross-entropy", fisher_diagonal=_FISHER)
def first_order(task: Task, wanted: Collection[str]) -> dict[str, Tensors]:
    """g = (1/N) Σᵢ gᵢ and F = (1/N) Σ_groups (Σ_{i in group} gᵢ)², gᵢ the gradient of sample i's cross-entropy.

    A group is `fisher_batch_size` consecutive samples, b of them: F = b · mean of squared group-mean gradients;
    b = 1 gives the per-sample empirical Fisher diagonal. The last group may be smaller.
    """
    for parameter in task.model.parameters():
        parameter.requires_grad_(False)
    for parameter in task.parameters.values():
        parameter.requires_grad_(True)
    with torch.enable_grad():
        gradient, fisher = _gradient_and_fisher(task, "fisher_diagonal" in wanted)
    return {"gradient": gradient, "fisher_diagonal": fisher}


def _loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), targets, reduction="sum")


def _gradient_and_fisher(task: Task, fisher: bool) -> tuple[Tensors, Tensors]:
    """Both, always the same way: the gradient has the same bits whether or not somebody asks for the Fisher."""
    size = task.scoring.fisher_batch_size
    if task.scoring.batchnorm == "batch" and batchnorm.layers(task.model):
        longest = max(len(targets) for _, targets in task.batches)
        if fisher and size != longest:
            raise RequestError(
                "fisher_diagonal with batchnorm = 'batch': samples of a batch depend on each other, so a group "
                f"must be a whole batch; set fisher_batch_size = batch_size (they are {size} and {longest})"
            )
        size = longest
    names, weights = list(task.parameters), list(task.parameters.values())
    batches = _group_batches(task, size)
    totals = _GroupSquares(task.parameters, size)
    left = totals.refused = _samples_not_first(task, size)
    for inputs, targets in batches:
        totals.begin(len(targets))
        with totals:
            loss = _loss(task.model, inputs, targets)
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        totals.end()
        left |= {name for name, grad in zip(names, found, strict=True) if grad is not None}
    if left:
        print(
            f"note: {', '.join(sorted(left))}: not used as a plain convolution or linear layer over samples; "
            f"their Fisher diagonal is computed one group at a time",
            file=sys.stderr,
        )
        _one_group_at_a_time(task, batches, size, sorted(left), totals)
    return (
        {name: totals.gradient[name] / task.samples for name in names},
        {name: totals.squares[name] / task.samples for name in names},
    )


def _group_batches(task: Task, size: int) -> list[tuple[Tensor, Tensor]]:
    """The scoring data in batches that hold whole groups: groups are consecutive samples, whatever the batches."""
    longest = max(len(targets) for _, targets in task.batches)
    if all(len(targets) % size == 0 for _, targets in task.batches[:-1]):
        return list(task.batches)
    inputs = torch.cat([x for x, _ in task.batches])
    targets = torch.cat([y for _, y in task.batches])
    step = max(size, longest - longest % size)
    return list(zip(inputs.split(step), targets.split(step), strict=True))


class _LeadingSizes(Intercept):
    """Records the leading size of the inputs of every tracked linear map."""

    def __init__(self, tracked: dict[str, nn.Parameter]) -> None:
        super().__init__(tracked)
        self.sizes: dict[str, set[int]] = {}

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        self.sizes.setdefault(name, set()).add(inputs.shape[0])
        return function(inputs, weight, bias, **options)


def _samples_not_first(task: Task, size: int) -> set[str]:
    """Weights whose inputs do not have the samples as their first dimension (seen with one and two samples)."""
    inputs = task.batches[0][0]
    if len(inputs) <= size:
        return set()
    wrong: set[str] = set()
    for count in {1, 2} if len(inputs) > 1 else {1}:
        probe = _LeadingSizes(dict(task.parameters))
        with torch.no_grad(), probe:
            task.model(inputs[:count])
        wrong |= {name for name, sizes in probe.sizes.items() if sizes != {count}}
    return wrong


class _LinearMap(torch.autograd.Function):
    """A linear map whose backward pass hands (inputs, output gradient) to `sink` instead of a weight gradient."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Any, function: Any, options: Any, sink: Any) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.function, ctx.options, ctx.sink = function, options, sink
        result: Tensor = function(inputs, weight, bias, **options)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        (gradient,) = gradients
        ctx.sink(inputs, gradient)
        onward = None
        if ctx.needs_input_grad[0]:
            if ctx.function is F.linear:
                onward = gradient @ weight
            else:
                stride, padding, dilation, groups = conv_geometry(ctx.options, weight)
                onward = torch.ops.aten.convolution_backward(
                    gradient, inputs, weight, None, stride, padding, dilation, False,
                    [0] * len(stride), groups, (True, False, False),
                )[0]  # fmt: skip
        return onward, None, None, None, None, None


class _GroupSquares(Intercept):
    """Sums group gradients and their squares, over all batches, of every tracked linear map."""

    def __init__(self, tracked: Any, size: int) -> None:
        super().__init__(tracked)
        self.size = size
        self.gradient = {name: torch.zeros_like(p, requires_grad=False) for name, p in tracked.items()}
        self.squares = {name: torch.zeros_like(p, requires_grad=False) for name, p in tracked.items()}
        self.refused: set[str] = set()
        self._shapes = {name: p.shape for name, p in tracked.items()}

    def begin(self, samples: int) -> None:
        """Start a batch."""
        self._samples = samples
        self._uses: dict[str, int] = {}
        self._pending: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def end(self) -> None:
        """Finish a batch: uses of a tied weight that never got a gradient no longer hold back the others."""
        for name in list(self._pending):
            self._flush(name)

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        groups = -(-self._samples // self.size)
        if function is not F.linear:
            try:
                conv_geometry(options, weight)
            except NotImplementedError:
                self.refused.add(name)
        if name in self.refused or (groups > 1 and inputs.shape[0] != self._samples):
            self.refused.add(name)
            return function(inputs, weight, bias, **options)
        self._uses[name] = self._uses.get(name, 0) + 1

        def sink(inputs: Tensor, gradient: Tensor) -> None:
            self._pending.setdefault(name, []).append(self._factors(inputs, gradient, weight, function, options))
            self._uses[name] -= 1
            if self._uses[name] == 0:
                self._flush(name)

        result: Tensor = _LinearMap.apply(inputs, weight, bias, function, options, sink)
        return result

    def _factors(
        self, inputs: Tensor, gradient: Tensor, weight: Tensor, function: Any, options: Any
    ) -> tuple[Tensor, Tensor]:
        """δ [groups of samples, convolution groups, o, p] and u [.., .., k, p]: the group gradient is δ uᵀ."""
        if function is F.linear:
            columns = inputs.reshape(inputs.shape[0], -1, 1, inputs.shape[-1]).permute(0, 2, 3, 1)
            delta = gradient.reshape(gradient.shape[0], -1, 1, gradient.shape[-1]).permute(0, 2, 3, 1)
        else:
            columns = patches(inputs, weight, options)
            delta = gradient.reshape(gradient.shape[0], columns.shape[1], -1, columns.shape[3])
        return self._fold(delta), self._fold(columns)

    def _fold(self, tensor: Tensor) -> Tensor:
        """Fold the samples of a group into the positions: [n, g, r, p] -> [n / size, g, r, size · p]."""
        size = min(self.size, len(tensor)) if self._samples > self.size else len(tensor)
        if size == 1:
            return tensor
        if len(tensor) % size:
            tensor = F.pad(tensor, [0, 0] * 3 + [0, -len(tensor) % size])  # absent samples add nothing
        folded: Tensor = tensor.unflatten(0, (-1, size)).permute(0, 2, 3, 1, 4).flatten(3)
        return folded

    def _flush(self, name: str) -> None:
        uses = self._pending.pop(name)
        delta, columns = (torch.cat(parts, dim=3) if len(uses) > 1 else parts[0] for parts in zip(*uses, strict=True))
        square, total = self.squares[name], self.gradient[name]
        square, total = (t.view(delta.shape[1], delta.shape[2], columns.shape[2]) for t in (square, total))
        if delta.shape[3] == 1:  # (δu)² = δ²u²
            total += torch.einsum("ngop,ngkp->gok", delta, columns)
            square += torch.einsum("ngop,ngkp->gok", delta.square(), columns.square())
            return
        step = max(1, BLOCK_BYTES // (total.numel() * total.element_size()))
        for part, cols in zip(delta.split(step), columns.split(step), strict=True):
            gradients = part @ cols.transpose(2, 3)
            total += gradients.sum(0)
            square += gradients.square_().sum(0)


def _one_group_at_a_time(
    task: Task, batches: Sequence[tuple[Tensor, Tensor]], size: int, names: Sequence[str], totals: _GroupSquares
) -> None:
    """The definition itself, for weights that the fast path cannot see."""
    weights = [task.parameters[name] for name in names]
    for name in names:
        totals.gradient[name].zero_()
        totals.squares[name].zero_()
    for inputs, targets in batches:
        for x, y in zip(inputs.split(size), targets.split(size), strict=True):
            found = torch.autograd.grad(_loss(task.model, x, y), weights, allow_unused=True, materialize_grads=True)
            for name, gradient in zip(names, found, strict=True):
                totals.gradient[name] += gradient
                totals.squares[name] += gradient.square()
