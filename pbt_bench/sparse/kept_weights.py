"""The kept weights of a sparse tensor as a vector of their own: what the optimiser updates."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Kept:
    """The weights of `parameter` that `mask` keeps.

    An optimiser that treats every weight alone (SGD, AdamW) makes of `vector` exactly what it makes of these weights
    in the whole tensor, in proportion to their number. Pruned weights are not touched: they stay zero.
    """

    def __init__(self, parameter: nn.Parameter, mask: Tensor) -> None:
        self._parameter = parameter
        self._index = _flat(torch.empty_like(parameter, dtype=torch.bool).copy_(mask)).nonzero().flatten()
        self.vector = nn.Parameter(_flat(parameter.data).index_select(0, self._index))

    def slots(self, places: Tensor) -> Tensor:
        """Where in the vector the weights are that have these indices [weights, dimensions] in the tensor."""
        strides = torch.tensor(self._parameter.stride(), device=places.device)
        return torch.searchsorted(self._index, (places * strides).sum(1))

    def read(self) -> None:
        """The vector from the weights."""
        self.vector.data.copy_(_flat(self._parameter.data).index_select(0, self._index))

    def read_gradient(self) -> None:
        """Add the gradient of the tensor, which is no longer needed, to the vector's own."""
        gradient = self._parameter.grad
        if gradient is None:
            return
        if gradient.stride() != self._parameter.stride():
            gradient = torch.empty_like(self._parameter).copy_(gradient)
        of_kept = _flat(gradient).index_select(0, self._index)
        self.vector.grad = of_kept if self.vector.grad is None else self.vector.grad + of_kept
        self._parameter.grad = None

    def write(self) -> None:
        """The weights from the vector."""
        _flat(self._parameter.data).index_copy_(0, self._index, self.vector.data)


def _flat(dense: Tensor) -> Tensor:
    """A view of all entries in the order of memory, whatever the memory format."""
    return dense.as_strided((dense.numel(),), (1,))
