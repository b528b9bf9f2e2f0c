"""Paired comparisons of two methods with the same dataset, model, sparsity and seeds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr, stdtrit

from pbt_bench.analysis.statistics.panel import Panel, counted_accuracy

LEVEL = 0.05
FEWEST = 3  # pairs; two pairs that agree by chance would seem exact
_EXACT_SEEDS = 7  # pairs, with 1,716 distinct resamples; more pairs use _DRAWS random resamples
_DRAWS = 10_000
_AT_ONCE = 100  # columns whose resamples are in memory together


@dataclass(frozen=True)
class Comparison:
    """The comparison of a method with another one, or with itself in another setting; differences are fractions."""

    other: str
    pairs: int  # common seeds
    mean: float
    low: float  # lower end of the bootstrap interval; NaN below two pairs
    high: float
    p: float  # p value of the paired t test; NaN below FEWEST pairs
    p_holm: float  # corrected over all comparisons of one row: one sparsity

    @property
    def level(self) -> bool:
        """True if the means are equal up to rounding."""
        return abs(self.mean) < 1e-12

    @property
    def supported(self) -> bool:
        """True if the leader is better: the interval is above zero, and the corrected test is significant."""
        return self.low > 0 and self.p_holm < LEVEL


@dataclass(frozen=True)
class Standing:
    """The method of the highest mean at one sparsity, and its comparison with every other method, the nearest first.

    `at_chance` names methods that are not compared: their runs all diverged or collapsed, and are below the leader's
    on every common seed (at least FEWEST seeds).
    """

    sparsity: float
    leader: str
    against: tuple[Comparison, ...]
    at_chance: tuple[str, ...] = ()

    @property
    def tied(self) -> list[str]:
        """The methods that the data cannot distinguish from the leader."""
        return [] if self.settled else [other.other for other in self.against if not other.supported]

    @property
    def marked(self) -> list[str]:
        """The methods that a table marks like the leader: those of the same mean, and tied ones unless all are tied.

        Fewer than FEWEST pairs support no conclusion, not even a tie.
        """
        if len(self.tied) < len(self.against) + len(self.at_chance):
            return [o.other for o in self.against if o.other in self.tied and (o.pairs >= FEWEST or o.level)]
        return [other.other for other in self.against if other.level]

    @property
    def settled(self) -> bool:
        """True if the leader is better than every other method by every comparison, without correction.

        The single claim is made only if all tests agree: an intersection-union test (Berger 1982, Technometrics 24(4)).
        """
        others = bool(self.against or self.at_chance)
        return others and all(other.low > 0 and other.p < LEVEL for other in self.against)


@dataclass(frozen=True)
class Accuracies:
    """The accuracies of one panel as an array; diverged and collapsed runs are at chance accuracy."""

    seeds: list[int]
    sparsities: list[float]
    methods: list[str]
    values: NDArray[np.float64]  # (seeds, sparsities, methods), NaN if missing
    ended: NDArray[np.bool_]  # (sparsities, methods): every run diverged or collapsed

    def part(self, seeds: list[int], sparsities: list[float], methods: list[str]) -> NDArray[np.float64]:
        """Return the values of the given seeds, sparsities and methods, in the given order."""
        rows = [self.seeds.index(seed) for seed in seeds]
        columns = [self.sparsities.index(sparsity) for sparsity in sparsities]
        return self.values[np.ix_(rows, columns, [self.methods.index(method) for method in methods])]


def accuracies(panel: Panel) -> Accuracies:
    """Collect the accuracies of all runs of `panel` that have one."""
    runs = panel.runs.assign(accuracy=counted_accuracy(panel.runs)).dropna(subset=["accuracy"])
    axes = (sorted(runs["seed"].unique()), sorted(runs["sparsity"].unique()))
    methods = [method for method in panel.methods if method in set(runs["method"])]
    seed, sparsity = (np.searchsorted(axis, runs[name]) for axis, name in zip(axes, ("seed", "sparsity"), strict=True))
    method = runs["method"].map({name: i for i, name in enumerate(methods)}).to_numpy(dtype=int)
    values = np.full((len(axes[0]), len(axes[1]), len(methods)), np.nan)
    values[seed, sparsity, method] = runs["accuracy"]
    ended = np.ones(values.shape[1:], dtype=bool)
    done = (runs["status"] == "done").to_numpy()
    ended[sparsity[done], method[done]] = False
    return Accuracies([int(s) for s in axes[0]], [float(s) for s in axes[1]], methods, values, ended)


def standings(panel: Panel) -> list[Standing]:
    """Return the standing at each sparsity with an accuracy; diverged and collapsed runs count at chance accuracy."""
    own = accuracies(panel)
    counts = (~np.isnan(own.values)).sum(axis=0)
    means = np.where(counts > 0, np.nansum(own.values, axis=0) / np.maximum(counts, 1), -np.inf)
    order = np.argsort(-means, axis=1, kind="stable")
    rows = np.arange(len(own.sparsities))
    leaders = order[:, 0] if len(rows) else rows
    gaps = own.values[:, rows, leaders][:, :, None] - own.values
    out = own.ended & ((gaps > 0).sum(axis=0) == np.maximum((~np.isnan(gaps)).sum(axis=0), FEWEST))
    gaps[:, out] = np.nan
    gaps[:, rows, leaders] = np.nan  # do not compare the leader with itself
    found = []
    for row, line in enumerate(compare(gaps, own.methods)):
        others = [i for i in order[row, 1:] if counts[row, i]]
        against = tuple(line[i] for i in others if not out[row, i])
        at_chance = tuple(own.methods[i] for i in others if out[row, i])
        found.append(Standing(own.sparsities[row], own.methods[leaders[row]], against, at_chance))
    return found


def compare(differences: NDArray[np.float64], methods: Sequence[str]) -> list[list[Comparison]]:
    """Compare differences of shape (seeds, rows, methods), NaN if a seed is missing.

    Return one comparison per method for each row. The p values of a row are Holm-corrected together.
    """
    seeds, rows, width = differences.shape
    flat = differences.reshape(seeds, rows * width)
    pairs = (~np.isnan(flat)).sum(axis=0)
    mean, low, high, p = (np.full(len(pairs), np.nan) for _ in range(4))
    for n in np.unique(pairs[pairs > 0]):
        columns = np.flatnonzero(pairs == n)
        kept = flat[:, columns].T
        values = kept[~np.isnan(kept)].reshape(len(columns), n).T
        mean[columns] = values.mean(axis=0)
        if n > 1:
            low[columns], high[columns] = bootstrap_interval(values)
        if n >= FEWEST:
            p[columns] = paired_t(values)
    corrected = p.reshape(rows, width).copy()
    for line in corrected:
        known = ~np.isnan(line)
        line[known] = holm(line[known])
    numbers = np.stack([mean, low, high, p, corrected.ravel()], axis=1).reshape(rows, width, 5).tolist()
    counts = pairs.reshape(rows, width).tolist()
    return [
        [Comparison(method, n, *five) for method, n, five in zip(methods, counts[row], numbers[row], strict=True)]
        for row in range(rows)
    ]


def paired_t(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the two-sided p value of Student's paired t test for each column of an (n, k) array.

    p = P(|T| >= |mean| sqrt(n) / std), with n - 1 degrees of freedom. If all differences of a column are equal, for
    example the same few test images on every seed, their standard deviation is uninformative. The p value is then that
    of the sign test, 2 / 2^n, or 1 if they are zero.
    """
    n = len(differences)
    mean, error = differences.mean(axis=0), differences.std(axis=0, ddof=1) / np.sqrt(n)
    same = error <= 1e-12  # equal up to rounding
    p = 2 * stdtr(n - 1, -np.abs(mean) / np.where(same, 1, error))
    result: NDArray[np.float64] = np.where(same, np.where(np.abs(mean) <= 1e-12, 1, 2 / 2**n), p)
    return result


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply Holm's step-down correction: sorted p_(i), i from 0, times (m - i), made monotone, at most 1."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1)
    return corrected


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the 95% bootstrap interval of the mean of each column of an (n, k) array by expanded percentiles.

    Plain percentiles are too narrow for few values. Expanded percentiles at Phi(-sqrt(n / (n - 1)) t(0.975, n - 1))
    make the interval of normal data as wide as Student's (Hesterberg 2015, The American Statistician 69(4), Sec. 5.3).
    For n = 3 the interval is the range of the values. Up to 7 rows, all resamples are used; for more rows, 10,000
    random resamples with a fixed seed.
    """
    n = len(values)
    tail = float(ndtr(-np.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.975)))
    counts, weights = _resamples(n)
    if n > _EXACT_SEEDS:  # all resamples have the same weight: a partial sort finds both percentiles
        rank = int(tail * len(counts))
        found = [
            np.partition(counts @ part / n, [rank, len(counts) - 1 - rank], axis=0)[[rank, -1 - rank]]
            for part in np.array_split(values, -(-values.shape[1] // _AT_ONCE), axis=1)
        ]
        low, high = np.concatenate(found, axis=1)
        return low, high
    means = counts @ values / n
    order = np.argsort(means, axis=0)
    sums = np.cumsum(weights[order], axis=0)
    ranked = np.take_along_axis(means, order, axis=0)
    columns = np.arange(values.shape[1])
    last = len(means) - 1
    return (
        ranked[np.minimum((sums < tail).sum(axis=0), last), columns],
        ranked[np.minimum((sums < 1 - tail).sum(axis=0), last), columns],
    )


@lru_cache(maxsize=4)  # one entry for 111 rows takes 9 MB
def _resamples(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the number of draws of each of n rows in each resample, and the probability of each resample."""
    if n > _EXACT_SEEDS:
        drawn = np.random.default_rng(0).multinomial(n, [1 / n] * n, size=_DRAWS).astype(float)
        return drawn, np.full(_DRAWS, 1 / _DRAWS)
    found = [np.bincount(rows, minlength=n) for rows in itertools.combinations_with_replacement(range(n), n)]
    counts = np.array(found, dtype=float)
    factorials = np.cumprod([1.0, *range(1, n + 1)])
    weights = factorials[n] / factorials[counts.astype(int)].prod(axis=1) / float(n) ** n
    return counts, weights
