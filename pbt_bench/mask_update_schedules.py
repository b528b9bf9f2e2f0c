"""Schedules of mask updates during training: SET, RigL and GMP.

The fields of a schedule are its options, `[options.set]`, `[options.rigl]` and `[options.gmp]` of a grid. Steps are
optimiser steps; `steps` is their number in the whole training. pbt_bench/training/mask_updates.py changes the masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import cos, pi
from typing import Annotated, Any, ClassVar

from pbt_bench.constraints import Checked, at_least, between, one_of
from pbt_bench.errors import RequestError

Share = Annotated[float, between(0, 1)]
Steps = Annotated[int, at_least(1)]


class DropAndGrow(Checked, frozen=True, kw_only=True):
    """Every `interval` steps each layer drops a share of its weights, the smallest, and grows as many elsewhere."""

    drop_fraction: Share = 0.3  # of the kept weights of a layer
    interval: Steps = 100
    end: Share = 0.75  # of the steps of the training: no mask changes after it
    anneal: Annotated[str, one_of("constant", "cosine")] = "constant"  # of the share that is dropped

    first: ClassVar[int]  # the step of the first update
    replaces_step: ClassVar[bool]  # an update takes the place of an optimiser step, instead of following it

    def due(self, step: int, steps: int) -> bool:
        """Return whether the masks change at `step`."""
        return step >= self.first and (step - self.first) % self.interval == 0 and step <= self.end * steps

    def share(self, step: int, steps: int) -> float:
        """Return the share of the kept weights that is dropped: a half cosine from `drop_fraction` to 0, or constant.

        Source: Evci et al. 2020, arXiv:1911.11134, Sec. 3 (cosine).
        """
        if self.anneal == "constant" or not steps * self.end:
            return self.drop_fraction
        return self.drop_fraction * (1 + cos(pi * min(1.0, step / (self.end * steps)))) / 2


class SET(DropAndGrow, frozen=True, kw_only=True):
    """Sparse evolutionary training: weights grow at random, after optimiser steps 1, 1 + `interval`, …"""

    first = 1
    replaces_step = False


class RigL(DropAndGrow, frozen=True, kw_only=True):
    """Weights grow where the gradient is largest, in place of optimiser steps 1, 1 + `interval`, …"""

    anneal: Annotated[str, one_of("constant", "cosine")] = "cosine"

    first = 0
    replaces_step = True


class GMP(Checked, frozen=True, kw_only=True):
    """Gradual magnitude pruning: the smallest weights are pruned, from a dense network to the sparsity of the run."""

    begin: Share = 0.2  # of the steps of the training
    end: Share = 0.75
    interval: Steps = 1000

    replaces_step: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.begin > self.end:
            raise RequestError(f"begin = {self.begin:g} must be at most end = {self.end:g}")

    def due(self, step: int, steps: int) -> bool:
        """Return whether the masks change after optimiser step `step` (from 1)."""
        first, last = self._range(steps)
        return step == last or (first < step < last and (step - first) % self.interval == 0)

    def sparsity(self, step: int, steps: int, target: float) -> float:
        """Return target · (1 - (1 - p)³), p the part of the steps from `begin` to `end` that is done at `step`.

        Source: Zhu and Gupta 2017, arXiv:1710.01878, Sec. 3.
        """
        first, last = self._range(steps)
        return target if step >= last else target * (1 - (1 - (step - first) / (last - first)) ** 3)

    def _range(self, steps: int) -> tuple[int, int]:
        return int(self.begin * steps), max(1, int(self.end * steps))


Schedule = SET | RigL | GMP
SCHEDULES: dict[str, type[Schedule]] = {"set": SET, "rigl": RigL, "gmp": GMP}


def schedule(name: str, options: Mapping[str, Any]) -> Schedule:
    """Create the schedule `name` from those of `options` that are its own. Raises RequestError for a wrong value."""
    kind = SCHEDULES[name]
    return kind(**{key: value for key, value in options.items() if key in kind.__struct_fields__})
