"""Sums of per-sample (or per-group) gradients and of their squares, from ordinary forward and backward passes.

Where the backward pass reaches a prunable linear map, the map's inputs u and output gradients δ give the
gradient of every group of samples as one matrix product δ uᵀ; it is added, squared, added and dropped, so
memory does not grow with the number of samples. Weights that are used in another way, or by layers whose
inputs do not have the samples first, are treated by the definition, one group at a time, and named on stderr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pbt_bench.errors import note_once
from pbt_bench.linear_maps import Intercept, convolution_backward, linear_map, patches, plain, rows_in
from pbt_bench.pruning import tuning
from pbt_bench.pruning.task import Batches
from pbt_bench.sparse import kernels

Loss = Callable[[Tensor, Tensor], Tensor]  # (logits [n, classes], targets [n]) -> sum over the samples
Sums = tuple[dict[str, Tensor], dict[str, Tensor]]


def group_sums(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batches: Batches,
    size: int,
    loss: Loss,
    whole_batches: bool = False,
    chunk: int | None = None,
) -> Sums:
    """Return (Σᵢ gᵢ, Σ_groups (Σ_{i in group} gᵢ)²) for every tensor of `weights`, gᵢ the gradient of sample i's loss.

    A group is `size` consecutive samples of the whole stream; the last one may be smaller. With
    `whole_batches` the batches are propagated as they are, each of them one group (samples may then depend
    on each other). Otherwise `chunk` samples are propagated at once: it bounds the memory, whatever the batches,
    and sums have the same bits however the data are batched. Other parameters must not require gradients. Call
    inside `preserved`.
    """
    totals = _GroupSums(weights, size)
    names, tensors = list(weights), list(weights.values())
    chunks = list(batches) if whole_batches else list(rechunk(batches, size, chunk))
    if not whole_batches:
        totals.refused = _samples_not_first(model, weights, chunks[0][0], size)
    with torch.enable_grad():
        for inputs, targets in chunks:
            totals.begin(len(targets))
            with totals:
                value = loss(model(inputs), targets)
            found = torch.autograd.grad(value, tensors, allow_unused=True) if value.requires_grad else ()
            totals.end()
            totals.refused |= {name for name, grad in zip(names, found, strict=False) if grad is not None}
        if totals.refused:
            odd = [name for name in names if name in totals.refused]
            note_once(
                f"{', '.join(odd)}: not used as a plain convolution or linear layer over samples; "
                "their squared gradients are computed one group at a time"
            )
            _one_group_at_a_time(model, {name: weights[name] for name in odd}, chunks, size, loss, totals)
    return totals.sums, totals.squares


def rechunk(batches: Batches, size: int, chunk: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the same samples in the same order, in chunks of `chunk` samples, rounded to whole groups of `size`."""
    chunk = chunk or (tuning.SAMPLES_AT_ONCE_CUDA if batches[0][0].is_cuda else tuning.SAMPLES_AT_ONCE)
    chunk = max(size, chunk - chunk % size)
    held: list[tuple[Tensor, Tensor]] = []
    count = 0
    for inputs, targets in batches:
        start = 0
        while start < len(targets):
            take = min(chunk - count, len(targets) - start)
            held.append((inputs[start : start + take], targets[start : start + take]))
            count, start = count + take, start + take
            if count == chunk:
                yield _concatenated(held)
                held, count = [], 0
    if held:
        yield _concatenated(held)


def _concatenated(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(parts) == 1:
        return parts[0]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


class _LeadingSizes(Intercept):
    """Record the leading size of the inputs of every tracked linear map."""

    def __init__(self, tracked: Mapping[str, Tensor]) -> None:
        super().__init__(tracked)
        self.sizes: dict[str, set[int]] = {}

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        self.sizes.setdefault(name, set()).add(inputs.shape[0])
        return function(inputs, weight, bias, **options)


def _samples_not_first(model: nn.Module, weights: Mapping[str, Tensor], inputs: Tensor, size: int) -> set[str]:
    """Return the weights whose inputs do not have samples as first dimension, by running one and two samples."""
    if len(inputs) <= size:
        return set()
    wrong: set[str] = set()
    for count in (1, 2):
        probe = _LeadingSizes(weights)
        with torch.no_grad(), probe:
            model(inputs[:count])
        wrong |= {name for name, sizes in probe.sizes.items() if sizes != {count}}
    return wrong


class _GroupSums(Intercept):
    """Add up group gradients and their squares, over all batches, of every tracked linear map."""

    def __init__(self, tracked: Mapping[str, Tensor], size: int) -> None:
        super().__init__(tracked)
        self._tracked = tracked
        self.size = size
        self.sums = {name: torch.zeros(p.shape, dtype=p.dtype, device=p.device) for name, p in tracked.items()}
        self.squares = {name: torch.zeros_like(total) for name, total in self.sums.items()}
        self.refused: set[str] = set()

    def begin(self, samples: int) -> None:
        """Start a batch."""
        self._samples = samples
        self._whole: dict[str, bool] = {}  # whether the tensor is used as a whole, or its parts are
        self._uses: dict[tuple[str, int], int] = {}  # by name, and first row of the part
        self._held: dict[tuple[str, int], list[tuple[Tensor, Tensor]]] = {}

    def end(self) -> None:
        """Finish a batch: add the products of tied weights of which some use got no gradient."""
        for rows in list(self._held):
            self._add_products(*rows)

    def apply(
        self, name: str, function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Any, options: Any
    ) -> Tensor:
        if not plain(inputs, weight, function, options):
            self.refused.add(name)
        if self._samples > self.size and inputs.shape[0] != self._samples:
            self.refused.add(name)
        whole = self._tracked[name]
        if self._whole.setdefault(name, weight is whole) != (weight is whole):  # products of both would be needed
            self.refused.add(name)
        if name in self.refused:
            return function(inputs, weight, bias, **options)
        rows = name, int(rows_in(whole, weight).start or 0)
        self._uses[rows] = self._uses.get(rows, 0) + 1

        def sink(inputs: Tensor, gradient: Tensor) -> None:
            once = self._uses[rows] == 1 and rows not in self._held
            if function is not F.linear and once and _many_positions(gradient, weight):
                self._add_convolutions(name, inputs, gradient, weight, options)
                return
            self._held.setdefault(rows, []).append(self._factors(inputs, gradient, weight, function, options))
            self._uses[rows] -= 1
            if self._uses[rows] == 0:
                self._add_products(*rows)

        return linear_map(inputs, weight, bias, function, options, sink)

    def _add_convolutions(self, name: str, inputs: Tensor, gradient: Tensor, weight: Tensor, options: Any) -> None:
        """Add one weight gradient per group, computed by the convolution itself without copying patches."""
        size = self._group(len(inputs))
        for x, delta in zip(inputs.split(size), gradient.split(size), strict=True):
            own = convolution_backward(delta, x, weight, options, 1)
            self.sums[name].add_(own)
            self.squares[name].addcmul_(own, own)

    def _factors(
        self, inputs: Tensor, gradient: Tensor, weight: Tensor, function: Any, options: Any
    ) -> tuple[Tensor, Tensor]:
        """Return δ [groups of samples, convolution groups, o, p] and u [.., .., k, p]; a group gradient is δ uᵀ."""
        if function is F.linear:
            columns = inputs.reshape(inputs.shape[0], -1, 1, inputs.shape[-1]).permute(0, 2, 3, 1)
            delta = gradient.reshape(gradient.shape[0], -1, 1, gradient.shape[-1]).permute(0, 2, 3, 1)
        else:
            columns = patches(inputs, weight, options)
            delta = gradient.reshape(gradient.shape[0], columns.shape[1], -1, columns.shape[3])
        return self._folded(delta), self._folded(columns)

    def _group(self, samples: int) -> int:
        return self.size if self._samples > self.size else samples

    def _folded(self, tensor: Tensor) -> Tensor:
        """Fold the samples of a group into the positions: [n, g, r, p] -> [n / size, g, r, size · p]."""
        size = self._group(len(tensor))
        if size == 1:
            return tensor
        if len(tensor) % size:
            tensor = F.pad(tensor, [0, 0] * 3 + [0, -len(tensor) % size])  # absent samples add nothing
        folded: Tensor = tensor.unflatten(0, (-1, size)).permute(0, 2, 3, 1, 4).flatten(3)
        return folded

    def _add_products(self, name: str, first: int) -> None:
        uses = self._held.pop((name, first))
        delta, columns = (torch.cat(parts, dim=3) if len(uses) > 1 else parts[0] for parts in zip(*uses, strict=True))
        shape = (delta.shape[1], delta.shape[2], columns.shape[2])
        of_rows = slice(first, first + shape[0] * shape[1])
        total, square = self.sums[name][of_rows].view(shape), self.squares[name][of_rows].view(shape)
        if delta.shape[3] == 1:  # (δu)² = δ²u²
            total += torch.einsum("ngop,ngkp->gok", delta, columns)
            square += torch.einsum("ngop,ngkp->gok", delta.square(), columns.square())
        elif total.is_cuda or total.numel() <= tuning.BATCHED_WEIGHTS:
            step = max(1, tuning.GROUP_ELEMENTS // total.numel())
            for d, u in zip(delta.split(step), columns.split(step), strict=True):
                own = d @ u.transpose(2, 3)
                total += own.sum(0)
                square += own.square_().sum(0)
        elif shape[0] == 1 and delta.shape[3] <= tuning.GROUP_POSITIONS and kernels.takes(total):
            _, _, rows, positions = delta.shape
            tensors = (total, square, delta.contiguous(), columns.contiguous())
            sizes = (len(delta), rows, columns.shape[2], positions)
            kernels.call("group_sums", total.dtype, tensors, *sizes, torch.get_num_threads())
        else:
            own = torch.empty(shape, dtype=total.dtype)
            for d, u in zip(delta, columns.transpose(2, 3), strict=True):
                torch.bmm(d, u, out=own) if shape[0] > 1 else torch.mm(d[0], u[0], out=own[0])
                total.add_(own)
                square.addcmul_(own, own)


def _many_positions(gradient: Tensor, weight: Tensor) -> bool:
    """Return whether copying patches costs more than one convolution call per group (measured on CPUs)."""
    positions = gradient[0, 0].numel()
    return not gradient.is_cuda and weight.numel() > tuning.BATCHED_WEIGHTS and 10 * positions >= weight[0].numel()


def _one_group_at_a_time(
    model: nn.Module, weights: Mapping[str, nn.Parameter], chunks: Batches, size: int, loss: Loss, totals: _GroupSums
) -> None:
    """Compute the sums by their definition."""
    for name in weights:
        totals.sums[name].zero_()
        totals.squares[name].zero_()
    for inputs, targets in chunks:
        for x, y in zip(inputs.split(size), targets.split(size), strict=True):
            found = torch.autograd.grad(
                loss(model(x), y), list(weights.values()), allow_unused=True, materialize_grads=True
            )
            for name, own in zip(weights, found, strict=True):
                totals.sums[name] += own
                totals.squares[name] += own.square()
