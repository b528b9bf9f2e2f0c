"""Paired comparisons: two methods on the same (dataset, model, sparsity, seed), and what their differences support."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr, stdtrit

from pbt_bench.analysis.summary import Panel, counted_accuracy

LEVEL = 0.05
FEWEST = 3  # pairs; two that agree by chance would look exact
_EXACT_UP_TO = 7  # pairs: 1,716 different resamples; of more pairs _DRAWS random ones
_DRAWS = 10_000


@dataclass(frozen=True)
class Comparison:
    """One method against another on the same seeds, or itself in another setting; differences as fractions."""

    other: str
    pairs: int  # seeds that both have
    mean: float
    low: float  # bootstrap interval; NaN below two pairs
    high: float
    p: float  # paired t test; NaN below FEWEST pairs
    p_holm: float  # corrected over the leader's comparisons

    @property
    def supported(self) -> bool:
        """The leader is better than this one: the interval is above zero, and so is the mean by the corrected test."""
        return self.low > 0 and self.p_holm < LEVEL


@dataclass(frozen=True)
class Standing:
    """One sparsity: the method of the highest mean and how it compares with every other, the nearest first.

    `at_chance`: those whose every run diverged or collapsed, below each of the leader's. They are not compared.
    """

    sparsity: float
    leader: str
    against: tuple[Comparison, ...]
    at_chance: tuple[str, ...] = ()

    @property
    def tied(self) -> list[str]:
        """The methods that the data cannot tell from the leader."""
        return [] if self.settled else [other.other for other in self.against if not other.supported]

    @property
    def settled(self) -> bool:
        """The leader is better than every other method: each comparison says so, which needs no correction.

        The one claim is made only if all tests agree (an intersection-union test, Berger 1982, Technometrics 24(4)).
        """
        others = bool(self.against or self.at_chance)
        return others and all(other.low > 0 and other.p < LEVEL for other in self.against)


def standings(panel: Panel) -> list[Standing]:
    """One standing per sparsity that has an accuracy. Diverged and collapsed runs count at chance accuracy."""
    runs = panel.runs.assign(accuracy=counted_accuracy(panel.runs)).dropna(subset=["accuracy"])
    found = []
    for sparsity, cell in runs.groupby("sparsity"):
        table = cell.pivot_table(index="seed", columns="method", values="accuracy", observed=True)
        table = table[[method for method in panel.methods if method in table]]
        order = table.mean().sort_values(ascending=False, kind="stable").index
        leader, others = order[0], list(order[1:])
        gaps = table[others].rsub(table[leader], axis=0)
        ended = ~cell["status"].eq("done").groupby(cell["method"]).any()
        below = (gaps > 0).sum() == gaps.count().clip(lower=FEWEST)
        out = [other for other in others if ended[other] and below[other]]
        others = [other for other in others if other not in out]
        compared = compare(others, gaps[others].to_numpy())
        found.append(Standing(float(str(sparsity)), str(leader), tuple(compared), tuple(out)))
    return found


def compare(others: Sequence[str], differences: NDArray[np.float64]) -> list[Comparison]:
    """One comparison per column of `differences` (seeds x methods, NaN where a seed lacks), Holm-corrected together."""
    pairs = (~np.isnan(differences)).sum(axis=0)
    mean, low, high, p = (np.full(len(others), np.nan) for _ in range(4))
    for n in np.unique(pairs[pairs > 0]):
        columns = np.flatnonzero(pairs == n)
        values = np.stack([differences[~np.isnan(differences[:, i]), i] for i in columns], axis=1)
        mean[columns] = values.mean(axis=0)
        if n > 1:
            low[columns], high[columns] = bootstrap_interval(values)
        if n >= FEWEST:
            p[columns] = paired_t(values)
    known = ~np.isnan(p)
    corrected = p.copy()
    corrected[known] = holm(p[known])
    return [
        Comparison(
            other, int(pairs[i]), float(mean[i]), float(low[i]), float(high[i]), float(p[i]), float(corrected[i])
        )
        for i, other in enumerate(others)
    ]


def paired_t(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two-sided p of Student's paired t test for each column of (n, k): P(|T| >= |mean| sqrt(n) / std), T of n - 1."""
    n = len(differences)
    mean, error = differences.mean(axis=0), differences.std(axis=0, ddof=1) / np.sqrt(n)
    # Differences that are all the same, but for rounding: certain if they are not zero.
    same = error <= 1e-12
    p = 2 * stdtr(n - 1, -np.abs(mean) / np.where(same, 1, error))
    result: NDArray[np.float64] = np.where(same, np.abs(mean) <= 1e-12, p)
    return result


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's step-down correction: sorted p_(i) times (m - i), made monotone, at most 1."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1)
    return corrected


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 95% interval of the mean of each column of (n, k): expanded percentiles over resamples of the n rows.

    Plain percentiles are too narrow for few values; these are taken at Phi(-sqrt(n / (n - 1)) t(0.975, n - 1)), which
    makes the interval of normal data as wide as Student's (Hesterberg 2015, The American Statistician 69(4), Sec. 5.3).
    For n = 3 that is the range of the values. Up to 7 rows every resample is taken, beyond 10,000 with a fixed seed.
    """
    n = len(values)
    tail = float(ndtr(-np.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.975)))
    counts, weights = _resamples(n)
    means = counts @ values / n
    order = np.argsort(means, axis=0)
    sums = np.cumsum(weights[order], axis=0)
    low = np.minimum((sums < tail).sum(axis=0), len(means) - 1)
    high = np.minimum((sums < 1 - tail).sum(axis=0), len(means) - 1)
    ranked = np.take_along_axis(means, order, axis=0)
    columns = np.arange(values.shape[1])
    return ranked[low, columns], ranked[high, columns]


@cache
def _resamples(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How often each of n rows is drawn, per resample, and the probability of that resample."""
    if n > _EXACT_UP_TO:
        drawn = np.random.default_rng(0).multinomial(n, [1 / n] * n, size=_DRAWS).astype(float)
        return drawn, np.full(_DRAWS, 1 / _DRAWS)
    found = [np.bincount(rows, minlength=n) for rows in itertools.combinations_with_replacement(range(n), n)]
    counts = np.array(found, dtype=float)
    factorials = np.cumprod([1.0, *range(1, n + 1)])
    weights = factorials[n] / factorials[counts.astype(int)].prod(axis=1) / float(n) ** n
    return counts, weights
