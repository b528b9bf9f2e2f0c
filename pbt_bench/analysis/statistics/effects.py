"""The mean of a quantity over networks and seeds: its interval, tests against a number, and seeds to decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, log2, nan, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from pbt_bench.analysis.statistics.paired import EQUAL_UP_TO, FEWEST, LEVEL, POWER

_MOST_SEEDS = 1000  # that `Effect.seeds_to_find` considers


@dataclass(frozen=True)
class Effect:
    """A mean over networks of the means over their seeds; the networks are fixed, and the seeds are the sample."""

    mean: float
    spread: float  # root mean square of the standard deviations within networks; NaN without degrees of freedom
    error: float  # standard error of the mean
    freedom: float  # degrees of freedom of the error (Welch and Satterthwaite)
    replicates: int  # pairs of a network and a seed
    networks: int
    alike: float = 1.0  # networks of equal spread that would have these degrees of freedom: 1 to `networks`

    @property
    def tested(self) -> bool:
        """True if there are enough seeds for a test: those of one network with FEWEST seeds."""
        return self.replicates - self.networks >= FEWEST - 1

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Student t interval; NaN without spread, which is then no measure of the uncertainty."""
        tested = self.freedom and not self.constant
        half = float(stdtrit(self.freedom, 1 - LEVEL / 2)) * self.error if tested else nan
        return self.mean - half, self.mean + half

    @property
    def constant(self) -> bool:
        """True if all seeds of a network have the same value, up to rounding."""
        return not self.spread > EQUAL_UP_TO

    def one_sided(self, bound: float) -> float:
        """Compute the p value of the one-sided t test of the mean against `bound`, on the side of the mean.

        p = P(T >= |mean - bound| / error). Without spread, it is that of the sign test, 1 / 2^replicates, or 0.5 at the
        bound.
        """
        gap = abs(self.mean - bound)
        if self.constant:
            return 0.5 if gap <= EQUAL_UP_TO else 0.5**self.replicates
        return float(stdtr(self.freedom, -gap / self.error))

    def two_sided(self, bound: float) -> float:
        """Compute the p value of the two-sided t test of the mean against `bound`, as `paired_t` does."""
        return min(1.0, 2 * self.one_sided(bound))

    def seeds_to_find(self, bound: float, level: float) -> float:
        """Return the number of seeds per network that finds the distance to `bound` with probability 0.8.

        `level` is that of a one-sided test. The number is infinite above 1,000 seeds, and NaN without a test.
        """
        gap = abs(self.mean - bound)
        if not self.tested:
            return nan
        if self.constant:
            return inf if gap <= EQUAL_UP_TO else max(FEWEST, ceil(log2(1 / level) / self.networks))
        n = np.arange(2, _MOST_SEEDS + 1)
        freedom = self.alike * (n - 1)
        error = self.spread / np.sqrt(self.networks * n)
        found = (stdtrit(freedom, 1 - level) + stdtrit(freedom, POWER)) * error <= gap
        return float(n[found.argmax()]) if found.any() else inf


def effect(networks: Sequence[NDArray[np.float64]]) -> Effect:
    """Compute the effect of one array of values over seeds per network; networks without values are left out.

    Networks may differ in their spread s, as Welch's test allows: error^2 = sum(s^2 / seeds) / networks^2, with the
    degrees of freedom of Satterthwaite, 1 / sum(share^2 / (seeds - 1)), where share is the share of a network in the
    sum. A network with one seed is taken to have the largest spread. For one network these are the numbers of the
    paired t test.
    """
    known = [values for values in networks if len(values)]
    count, replicates = len(known), sum(map(len, known))
    if not count:
        return Effect(nan, nan, nan, 0, 0, 0)
    mean = float(np.mean([values.mean() for values in known]))
    repeated = [values for values in known if len(values) > 1]
    if not repeated:
        return Effect(mean, nan, nan, 0, replicates, count)
    variances = np.array([values.var(ddof=1) for values in repeated])
    seeds = np.array([len(values) for values in repeated])
    widest, alone = variances.argmax(), count - len(repeated)
    total = float((variances / seeds).sum() + alone * variances[widest])
    spread = sqrt(float(variances.sum() + alone * variances[widest]) / count)
    error = sqrt(total) / count
    if not total > 0:
        return Effect(mean, spread, error, replicates - count, replicates, count, count)
    shares = variances / seeds / total
    shares[widest] += alone * variances[widest] / total
    alike = (variances / variances[widest]).sum() ** 2 / ((variances / variances[widest]) ** 2).sum()
    return Effect(mean, spread, error, float(1 / (shares**2 / (seeds - 1)).sum()), replicates, count, float(alike))
