"""The kept weights of a sparse tensor as a vector, which the optimiser updates."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class KeptWeights:
    """The weights of `parameter` that `mask` keeps.

    An elementwise optimiser (SGD, AdamW) updates `vector` to exactly the values that it would give these weights in the
    whole tensor, at a cost proportional to their number. Pruned weights are not touched: they stay zero.
    """

    def __init__(self, parameter: nn.Parameter, mask: Tensor) -> None:
        self._parameter = parameter
        self._index = _flat(torch.empty_like(parameter, dtype=torch.bool).copy_(mask)).nonzero().flatten()
        self.vector = nn.Parameter(_flat(parameter.data).index_select(0, self._index))

    def slots(self, indices: Tensor) -> Tensor:
        """Return the vector indices of the weights at the tensor indices [weights, dimensions]."""
        strides = torch.tensor(self._parameter.stride(), device=indices.device)
        return torch.searchsorted(self._index, (indices * strides).sum(1))

    def gather(self, dense: Tensor) -> Tensor:
        """Return the entries of a tensor like the parameter that belong to kept weights, as a vector."""
        return _flat(torch.empty_like(self._parameter).copy_(dense)).index_select(0, self._index)

    def scatter(self, vector: Tensor) -> Tensor:
        """Return a tensor like the parameter with the entries of `vector` at the kept weights, and zeros elsewhere."""
        dense = torch.zeros_like(self._parameter, requires_grad=False)
        _flat(dense).index_copy_(0, self._index, vector)
        return dense

    def read(self) -> None:
        """Copy the weights into the vector."""
        self.vector.data.copy_(_flat(self._parameter.data).index_select(0, self._index))

    def read_gradient(self) -> None:
        """Add the tensor's gradient to the vector's, and clear it."""
        gradient = self._parameter.grad
        if gradient is None:
            return
        if gradient.stride() != self._parameter.stride():
            gradient = torch.empty_like(self._parameter).copy_(gradient)
        of_kept = _flat(gradient).index_select(0, self._index)
        self.vector.grad = of_kept if self.vector.grad is None else self.vector.grad + of_kept
        self._parameter.grad = None

    def write(self) -> None:
        """Copy the vector into the weights."""
        _flat(self._parameter.data).index_copy_(0, self._index, self.vector.data)


def _flat(dense: Tensor) -> Tensor:
    """Return a view of all entries in memory order, whatever the memory format."""
    return dense.as_strided((dense.numel(),), (1,))
