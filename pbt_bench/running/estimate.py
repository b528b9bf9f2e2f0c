"""Estimate how long runs take, from the measured runs of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import mean

from pbt_bench.running.outcomes import Outcome
from pbt_bench.spec import RunSpec


@dataclass(frozen=True)
class Estimate:
    """Seconds of the runs one after another; None if no run was measured."""

    seconds: float | None
    measured: int  # number of runs it is based on


def estimate(specs: Mapping[str, RunSpec], todo: Sequence[RunSpec], found: Mapping[str, Outcome]) -> Estimate:
    """Estimate `todo` by the mean of the measured runs of the same dataset and model, or else the mean of all.

    `specs` are the runs of the study by run id.
    """
    measured: dict[tuple[str, str], list[float]] = {}
    for run_id, spec in specs.items():
        outcome = found.get(run_id)
        if outcome is not None and outcome.seconds is not None and outcome.status != "failed":
            measured.setdefault((spec.dataset, spec.model), []).append(outcome.seconds)
    everything = list(chain.from_iterable(measured.values()))
    if not everything:
        return Estimate(None, 0)
    overall = mean(everything)
    means = {key: mean(values) for key, values in measured.items()}
    return Estimate(sum(means.get((s.dataset, s.model), overall) for s in todo), len(everything))
