"""The rule by which EarlyCroP ends dense training: the weights have stopped moving away from an early state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pbt_bench.training.stepper import State


class EarlyCrop:
    """Decide after every epoch whether dense training ends (Rachwan et al. 2022, arXiv:2206.10451).

    d_e = ‖w_1 - w_e‖ / ‖w_1‖ is the relative distance of all parameters after epoch e from those after epoch 1.
    Training ends after the first epoch e > 2 with |d_e - d_(e-1)| < `factor` · d_2.

    Equal to johnrachwan123/Early-Cropression-via-Gradient-Flow-Preservation 6fb1176, models/trainers/DefaultTrainer.py
    lines 250-266, whose factor is 1 - sparsity. The code trains with a constant learning rate for at most 100 epochs,
    and keeps the state of its optimizer for the training of the pruned network; a warm-up follows the recipe of the
    run, ends with it, and leaves no such state.
    """

    def __init__(self, factor: float, state: State | None = None) -> None:
        self.factor = factor
        self.epochs: int = state["epochs"] if state else 0  # that the rule has seen
        self._reference: Tensor | None = state["reference"] if state else None
        self._distances: list[float] = list(state["distances"]) if state else []  # d_2, d_3, …

    def ends(self, model: nn.Module) -> bool:
        """Return whether dense training ends, after another epoch has changed the parameters of `model`."""
        weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).cpu()
        self.epochs += 1
        if self._reference is None:
            self._reference = weights
            return False
        moved = torch.linalg.vector_norm(self._reference - weights, dtype=torch.float64)
        self._distances.append(float(moved / torch.linalg.vector_norm(self._reference, dtype=torch.float64)))
        return self._ended

    @property
    def _ended(self) -> bool:
        found = self._distances
        return len(found) > 1 and abs(found[-1] - found[-2]) < self.factor * found[0]

    def state(self) -> State:
        """Return everything that later decisions depend on."""
        return {"epochs": self.epochs, "reference": self._reference, "distances": self._distances}

    def notes(self) -> dict[str, float]:
        """Return the measurements for the record: epochs, whether the rule ended them, and the distances."""
        distances = {f"distance_{epoch}": value for epoch, value in enumerate(self._distances, 2)}
        return {"epochs": float(self.epochs), "ended": float(self._ended), **distances}
