"""Ranks of the methods over all settings of a study, and significance tests of their differences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from pbt_bench.analysis.statistics.labels import counted
from pbt_bench.analysis.statistics.paired import LEVEL, holm
from pbt_bench.analysis.statistics.panel import Panel

_EXACT_SETTINGS = 100  # settings; with more, the normal approximation is exact to all printed digits


@dataclass(frozen=True)
class Ranks:
    """Average ranks (1 = best) over the settings in which every method has an accuracy.

    `pairs` has a row per pair of methods, with the columns `method_a` (of the better average rank), `method_b`,
    `wins_a`, `wins_b`, `ties`, `median_difference` (a - b, a fraction), `p` of Wilcoxon's signed-rank test and
    `p_holm`.
    """

    average: pd.Series  # by method, the best first
    settings: int
    left_out: int  # settings in which a method has no accuracy yet
    pairs: pd.DataFrame

    @property
    def groups(self) -> list[list[str]]:
        """The maximal sequences of methods with adjacent ranks in which no two differ significantly."""
        names = list(self.average.index)
        apart = {(row["method_a"], row["method_b"]) for row in self.pairs.to_dict("records") if row["p_holm"] < LEVEL}
        found: list[list[str]] = []
        for start in range(len(names)):
            end = start + 1
            while end < len(names) and not any((name, names[end]) in apart for name in names[start:end]):
                end += 1
            if end - start > 1 and (not found or names[end - 1] not in found[-1]):
                found.append(names[start:end])
        return found


def rank_methods(parts: Sequence[Panel]) -> Ranks:
    """Rank the methods by mean accuracy over seeds in every setting (panel, sparsity); equal means share their rank.

    A sanity transform changes the method, so panels with one count only if the study has no other panels.
    """
    parts = [panel for panel in parts if panel.runs["sanity"].eq("none").all()] or parts
    tables = [panel.cells.pivot_table("mean", "sparsity", "method", dropna=False) for panel in parts]
    table = pd.concat(tables) if tables else pd.DataFrame()
    whole = table.dropna().round(12)  # means that differ by rounding are equal
    average = whole.rank(axis=1, ascending=False).mean().sort_values(kind="stable").dropna()
    values = whole[average.index].to_numpy(dtype=float).T
    return Ranks(
        average=average,
        settings=len(whole),
        left_out=len(table) - len(whole),
        pairs=_pairs(list(average.index), values),
    )


def rank_sentences(found: Ranks) -> list[str]:
    """Describe the average ranks and the number of significant differences."""
    if len(found.average) < 2:
        return ["No setting has an accuracy of two methods yet: there is nothing to rank."]
    order = ", ".join(f"{name} {rank:.2f}" for name, rank in found.average.items())
    said = [f"Average rank over {counted(found.settings, 'setting')} (1 is best): {order}."]
    if found.left_out:
        said.append(f"{found.left_out} more lack an accuracy of some method and are left out.")
    apart = int((found.pairs["p_holm"] < LEVEL).sum())
    said.append(
        f"{apart} of {len(found.pairs)} pairs differ significantly (Wilcoxon signed-rank, Holm-corrected, 0.05)."
    )
    if 2 * len(found.pairs) / 2**found.settings >= LEVEL and not apart:
        said.append("So few settings cannot show any difference between this many methods.")
    return said


def signed_rank(differences: NDArray[np.float64]) -> float:
    """Compute the two-sided p value of Wilcoxon's signed-rank test; zeros are dropped, ties share their rank.

    Up to 100 differences the p value is exact, also with ties: the distribution of the rank sum over all signs is
    computed by convolution, rank by rank.
    """
    nonzero = differences[np.abs(differences) > 1e-12]
    if len(nonzero) == 0:
        return 1.0
    if len(nonzero) > _EXACT_SETTINGS:
        return float(stats.wilcoxon(nonzero, method="approx").pvalue)
    twice = np.rint(2 * stats.rankdata(np.abs(nonzero).round(12))).astype(int)  # shared ranks may be half-integers
    chances = np.ones(1)
    for rank in twice:
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    positive = int(twice[nonzero > 0].sum())
    return float(min(1, 2 * min(chances[: positive + 1].sum(), chances[positive:].sum())))


def _pairs(names: Sequence[str], values: NDArray[np.float64]) -> pd.DataFrame:
    rows = []
    for a, b in itertools.combinations(range(len(names)), 2):
        gaps = values[a] - values[b]
        counts = [int(count.sum()) for count in (gaps > 0, gaps < 0, gaps == 0)]
        rows.append((names[a], names[b], *counts, float(np.median(gaps)), signed_rank(gaps)))
    columns = ["method_a", "method_b", "wins_a", "wins_b", "ties", "median_difference", "p"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=holm(table["p"].to_numpy(dtype=float)))
