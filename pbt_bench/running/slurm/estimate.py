"""What a submission will cost, from the runs measured so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import mean

from pbt_bench.running.outcomes import Outcome
from pbt_bench.running.slurm.profile import Profile
from pbt_bench.spec import RunSpec


@dataclass(frozen=True)
class Estimate:
    """Seconds of all runs one after another, from the mean of those measured; None if there is none."""

    seconds: float | None
    measured: int

    def text(self, profile: Profile) -> str:
        """In the unit that is paid for: GPU hours, or node hours where a job has no GPU."""
        unit = "GPU hours" if profile.gpus else "job hours"
        if self.seconds is None:
            return f"{unit}: unknown, no run of this study was measured yet"
        hours = self.seconds / 3600 / profile.workers * max(1, profile.gpus)
        return f"{unit}: about {hours:.3g} (from {self.measured} measured runs)"


def estimate(specs: Sequence[RunSpec], todo: Sequence[RunSpec], found: Mapping[str, Outcome]) -> Estimate:
    """What `todo` will cost: per dataset and model the mean of the measured runs, else the mean of all."""
    measured: dict[tuple[str, str], list[float]] = {}
    for spec in specs:
        outcome = found.get(spec.run_id)
        if outcome is not None and outcome.seconds is not None and outcome.status != "failed":
            measured.setdefault((spec.dataset, spec.model), []).append(outcome.seconds)
    everything = list(chain.from_iterable(measured.values()))
    if not everything:
        return Estimate(None, 0)
    overall = mean(everything)
    means = {key: mean(values) for key, values in measured.items()}
    return Estimate(sum(means.get((s.dataset, s.model), overall) for s in todo), len(everything))
