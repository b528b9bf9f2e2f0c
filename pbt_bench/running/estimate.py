"""Estimate how long runs take, from the measured runs of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import mean

from pbt_bench.errors import counted
from pbt_bench.running.outcomes import Outcome
from pbt_bench.running.probes import Timings
from pbt_bench.spec import RunSpec


@dataclass(frozen=True)
class Estimate:
    """Seconds of the runs one after another; None if no run was measured."""

    seconds: float | None
    measured: int  # number of runs it is based on
    probes: int = 0  # number of short runs it is based on

    @property
    def basis(self) -> str:
        """The number of runs and probes that it is based on."""
        found = [
            counted(number, noun)
            for number, noun in ((self.measured, "measured run"), (self.probes, "probe"))
            if number
        ]
        return " and ".join(found)


def estimate(
    specs: Mapping[str, RunSpec], todo: Sequence[RunSpec], found: Mapping[str, Outcome], probes: Timings | None = None
) -> Estimate:
    """Estimate `todo` by the mean of the measured runs of the same dataset and model, or by its probes.

    A model with neither has the mean of all measured runs or, without any, of all probes.
    `specs` are the runs of the study by run id.
    """
    measured: dict[tuple[str, str], list[float]] = {}
    for run_id, spec in specs.items():
        outcome = found.get(run_id)
        if outcome is not None and outcome.seconds is not None and outcome.status != "failed":
            measured.setdefault((spec.dataset, spec.model), []).append(outcome.seconds)
    means = {key: mean(values) for key, values in measured.items()}
    everything = list(chain.from_iterable(measured.values()))
    probes = probes or {}
    timings = list(chain.from_iterable(probes.values()))
    used: set[tuple[str, str]] = set()

    def seconds(spec: RunSpec) -> float:
        key = (spec.dataset, spec.model)
        if key in means:
            return means[key]
        if key in probes or not everything:
            used.update([key] if key in probes else probes)
            return mean(timing.of(spec.recipe.epochs) for timing in probes.get(key, timings))
        return overall

    if not everything and not timings:
        return Estimate(None, 0)
    overall = mean(everything) if everything else 0.0
    total = sum(map(seconds, todo))
    return Estimate(total, len(everything), sum(len(probes[key]) for key in used))
