"""Paired comparisons of two methods with the same dataset, model, sparsity and seeds.

docs/statistics.md explains the choices; tests/analysis/statistics/test_simulation.py measures their error rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf, nan, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from pbt_bench.analysis.statistics.panel import Panel, counted_accuracy

LEVEL = 0.05
POWER = 0.8  # of the smallest difference that could be detected, and of the number of seeds that would decide
MARGIN = 0.01  # accuracies that differ by less are equal for all practical purposes
FEWEST = 3  # pairs; two pairs that agree by chance would seem exact
_SEEDS_CONSIDERED = 1000  # that `seeds_needed` considers
EQUAL_UP_TO = 1e-12  # differences and deviations below are rounding


@dataclass(frozen=True)
class Comparison:
    """The comparison of a method with another one, or with itself in another setting; differences are fractions."""

    other: str
    pairs: int  # common seeds
    mean: float
    std: float  # of the differences, ddof = 1; NaN below two pairs
    p: float  # two-sided p value of the paired t test; NaN below FEWEST pairs
    p_holm: float  # corrected over the comparisons of one row: all pairs of methods at a sparsity

    @property
    def half(self) -> float:
        """Half the 95% Student t interval of the mean difference; NaN if all differences are equal, or below two pairs.

        Equal differences, of the same few test images on every seed, have no spread that an interval could use.
        """
        return self._quantile(1 - LEVEL / 2) * self._error

    @property
    def low(self) -> float:
        """The lower end of the 95% interval."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The upper end of the 95% interval."""
        return self.mean + self.half

    @property
    def level(self) -> bool:
        """True if the means are equal up to rounding."""
        return abs(self.mean) < EQUAL_UP_TO

    @property
    def supported(self) -> bool:
        """True if the leader is better by the corrected test."""
        return self.mean > 0 and self.p_holm < LEVEL

    @property
    def equal(self) -> bool:
        """True if the methods are equal within MARGIN: two one-sided t tests, each at 0.05 (Schuirmann 1987)."""
        if self.pairs < FEWEST:
            return False
        half = 0.0 if self.std < EQUAL_UP_TO else self._quantile(1 - LEVEL) * self._error
        return abs(self.mean) + half < MARGIN

    @property
    def detectable(self) -> float:
        """The smallest true difference that this number of seeds finds with probability 0.8, at this spread."""
        return (self._quantile(1 - LEVEL / 2) + self._quantile(POWER)) * self._error

    @property
    def seeds_needed(self) -> float:
        """The number of seeds that would find this mean difference with probability 0.8, at this spread.

        It is infinite for more than 1,000 seeds, and NaN if the spread is unknown.
        """
        if not self.std > EQUAL_UP_TO:
            return nan
        n = np.arange(2, _SEEDS_CONSIDERED + 1)
        found = (stdtrit(n - 1, 1 - LEVEL / 2) + stdtrit(n - 1, POWER)) * self.std / np.sqrt(n) <= abs(self.mean)
        return float(n[found.argmax()]) if found.any() else inf

    @property
    def _error(self) -> float:
        """The standard error of the mean difference."""
        return self.std / sqrt(self.pairs) if self.pairs > 1 and self.std > EQUAL_UP_TO else nan

    def _quantile(self, probability: float) -> float:
        return float(stdtrit(self.pairs - 1, probability)) if self.pairs > 1 else nan


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
    def marks(self) -> dict[str, str]:
        """The mark of each method: `best`, `highest`, `equal`, `worse` or `undecided`.

        `best` is better than every other method, `highest` has the highest mean without being so. `equal` is within
        MARGIN of it, `worse` is below it by the corrected test, and `undecided` is neither. A single method has none.
        """
        if not (self.against or self.at_chance):
            return {}
        found = {self.leader: "best" if self.settled else "highest"} | dict.fromkeys(self.at_chance, "worse")
        for other in self.against:
            if other.level:
                found[other.other] = "highest"
            elif self.settled or other.supported:
                found[other.other] = "worse"
            else:
                found[other.other] = "equal" if other.equal else "undecided"
        return found

    def marked(self, mark: str) -> list[str]:
        """Return the other methods with a mark, the nearest first."""
        marks = self.marks
        return [other.other for other in self.against if marks[other.other] == mark]

    @property
    def settled(self) -> bool:
        """True if the leader is better than every other method by every comparison, without correction.

        The single claim is made only if all tests agree: an intersection-union test (Berger 1982, Technometrics 24(4)).
        """
        others = bool(self.against or self.at_chance)
        return others and all(other.mean > 0 and other.p < LEVEL for other in self.against)


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
    return rank_by_mean(accuracies(panel))


def rank_by_mean(own: Accuracies) -> list[Standing]:
    """Compare the method of the highest mean with every other one, at each sparsity.

    The p values of a sparsity are Holm-corrected over all pairs of methods, because the data choose the leader.
    """
    counts = (~np.isnan(own.values)).sum(axis=0)
    means = np.where(counts > 0, np.nansum(own.values, axis=0) / np.maximum(counts, 1), -np.inf)
    ranked = np.argsort(-means, axis=1, kind="stable")
    rows = np.arange(len(own.sparsities))
    leaders = ranked[:, 0] if len(rows) else rows
    gaps = own.values[:, rows, leaders][:, :, None] - own.values
    out = own.ended & ((gaps > 0).sum(axis=0) == np.maximum((~np.isnan(gaps)).sum(axis=0), FEWEST))
    first, second = np.array(list(combinations(range(len(own.methods)), 2)), dtype=int).reshape(-1, 2).T
    numbers = _paired(own.values[:, :, first] - own.values[:, :, second], out[:, first] | out[:, second])
    pair = np.zeros((len(own.methods),) * 2, dtype=int)
    pair[first, second] = pair[second, first] = np.arange(len(first))
    found = []
    for row, leader in enumerate(leaders.tolist()):
        others = [i for i in ranked[row, 1:].tolist() if counts[row, i]]
        against = [
            Comparison(own.methods[i], int(n), -mean if i < leader else mean, *rest)
            for i in others
            if not out[row, i]
            for n, mean, *rest in (numbers[:, row, pair[leader, i]].tolist(),)
        ]
        at_chance = tuple(own.methods[i] for i in others if out[row, i])
        found.append(Standing(own.sparsities[row], own.methods[leader], tuple(against), at_chance))
    return found


def compare(differences: NDArray[np.float64], methods: Sequence[str]) -> list[list[Comparison]]:
    """Compare differences of shape (seeds, rows, methods), NaN if a seed is missing.

    Return one comparison per method for each row. The p values of a row are Holm-corrected together.
    """
    numbers = _paired(differences, np.zeros(differences.shape[1:], dtype=bool))
    return [
        [Comparison(method, int(n), *rest) for method, (n, *rest) in zip(methods, row, strict=True)]
        for row in np.moveaxis(numbers, 0, 2).tolist()
    ]


def _paired(differences: NDArray[np.float64], left_out: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return (pairs, mean, std, p, corrected p) of differences (seeds, rows, comparisons): (5, rows, comparisons)."""
    seeds, rows, width = differences.shape
    flat = np.where(left_out, nan, differences).reshape(seeds, rows * width)
    pairs = (~np.isnan(flat)).sum(axis=0)
    mean, std, p = (np.full(len(pairs), nan) for _ in range(3))
    for n in np.unique(pairs[pairs > 0]):
        columns = np.flatnonzero(pairs == n)
        kept = flat[:, columns].T
        values = kept[~np.isnan(kept)].reshape(len(columns), n).T
        mean[columns] = values.mean(axis=0)
        if n > 1:
            std[columns] = values.std(axis=0, ddof=1)
        if n >= FEWEST:
            p[columns] = paired_t(values)
    corrected = p.reshape(rows, width).copy()
    for line in corrected:
        known = ~np.isnan(line)
        line[known] = holm(line[known])
    return np.stack([pairs, mean, std, p, corrected.ravel()]).reshape(5, rows, width)


def paired_t(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the two-sided p value of Student's paired t test for each column of an (n, k) array.

    p = P(|T| >= |mean| sqrt(n) / std), with n - 1 degrees of freedom. If all differences of a column are equal, for
    example the same few test images on every seed, their standard deviation is uninformative. The p value is then that
    of the sign test, 2 / 2^n, or 1 if they are zero.
    """
    n = len(differences)
    mean, error = differences.mean(axis=0), differences.std(axis=0, ddof=1) / np.sqrt(n)
    same = error <= EQUAL_UP_TO  # equal up to rounding
    p = 2 * stdtr(n - 1, -np.abs(mean) / np.where(same, 1, error))
    result: NDArray[np.float64] = np.where(same, np.where(np.abs(mean) <= EQUAL_UP_TO, 1, 2 / 2**n), p)
    return result


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply Holm's step-down correction: sorted p_(i), i from 0, times (m - i), made monotone, at most 1."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1)
    return corrected
