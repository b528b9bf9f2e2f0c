"""Short runs, one per dataset and model, that are timed to estimate a study before any of its runs was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pbt_bench.running.store import Store
from pbt_bench.spec import DENSE, RunSpec

PROBE = "probe"  # folder of their records in the folder of the study
_EPOCHS = 2  # the first has the cost of the start, the second is the measure of an epoch


@dataclass(frozen=True)
class Timing:
    """Seconds of a probe, and of its last epoch."""

    seconds: float
    epochs: int
    per_epoch: float

    def of(self, epochs: int) -> float:
        """Estimate the seconds of the same run with `epochs` epochs."""
        return max(0.0, self.seconds + (epochs - self.epochs) * self.per_epoch)


Timings = Mapping[tuple[str, str], Sequence[Timing]]  # by dataset and model


def probe_runs(specs: Sequence[RunSpec], count: int) -> list[RunSpec]:
    """Return `count` short runs of each dataset and model, with different seeds, to be executed at the same time.

    They are the first run with pruning, at the lowest sparsity, because a collapsed network is not trained.
    """
    chosen: dict[tuple[str, str], RunSpec] = {}
    for spec in sorted(specs, key=lambda spec: (spec.method == DENSE, spec.sparsity)):
        chosen.setdefault((spec.dataset, spec.model), spec)
    replace = msgspec.structs.replace
    return [
        replace(spec, seed=spec.seed + index, recipe=replace(spec.recipe, epochs=min(_EPOCHS, spec.recipe.epochs)))
        for spec in chosen.values()
        for index in range(count)
    ]


def read_timings(study: Path) -> Timings:
    """Return the timings of the probes of a study."""
    found: dict[tuple[str, str], list[Timing]] = {}
    store = Store(study / PROBE)
    for name in sorted(store.names()):
        record = store.lookup(name).record
        if record is None or record.status == "failed" or (seconds := record.environment.get("seconds")) is None:
            continue
        last = record.curve[-1].seconds if record.curve else 0.0
        timing = Timing(float(seconds), len(record.curve), last)
        found.setdefault((record.spec.dataset, record.spec.model), []).append(timing)
    return found
