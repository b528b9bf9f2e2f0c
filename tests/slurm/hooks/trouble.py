"""Faults for tests, imported by every process of a study as a dataset of the user (PBT_BENCH_DATASETS).

Environment variables make one run slow and another use much memory. Results stay the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any


def install() -> None:
    from pbt_bench.training.stepper import Stepper

    long = float(os.environ.get("TROUBLE_LONG", "0"))  # seconds per step of the dense run of seed 0
    greedy = int(os.environ.get("TROUBLE_GREEDY", "0"))  # MiB that the dense run of seed 2 allocates
    create, original = Stepper.__init__, Stepper.epoch

    def init(self: Stepper, model: Any, masks: Any, data: Any, recipe: Any, seed: int, *rest: Any) -> None:
        create(self, model, masks, data, recipe, seed, *rest)
        self.dense_seed = seed if all(bool(mask.all()) for mask in masks.values()) else None  # type: ignore[attr-defined]

    def epoch(
        self: Stepper, number: int, most_steps: int | None = None, after_step: Callable[[], None] = lambda: None
    ) -> Any:
        seed = self.dense_seed  # type: ignore[attr-defined]

        def slowly() -> None:
            time.sleep(long if seed == 0 else 0)
            after_step()

        hoard = b"x" * (greedy << 20 if seed == 2 else 0)
        result = original(self, number, most_steps, slowly)
        del hoard
        return result

    Stepper.__init__ = init  # type: ignore[assignment, method-assign]
    Stepper.epoch = epoch  # type: ignore[method-assign]


if "SLURM_JOB_ID" in os.environ:
    install()
