"""Comparison of methods over all sparsities and networks of a study, with seeds as the independent replicates."""

from __future__ import annotations

import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import isnan, nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pbt_bench.analysis.statistics.effects import effect
from pbt_bench.analysis.statistics.labels import counted, joined, points
from pbt_bench.analysis.statistics.paired import LEVEL, accuracies, holm
from pbt_bench.analysis.statistics.panel import Panel


@dataclass(frozen=True)
class Pooled:
    """Accuracies that are averaged over the sparsities of each network and seed, and compared over seeds.

    `pairs` has a row per pair of methods, with the columns `method_a` (of the higher mean), `method_b`, `difference`
    (a - b, a fraction), `low` and `high` (its 95% Student t interval), `p` of the t test and `p_holm`.
    """

    means: pd.Series  # by method, the best first: mean accuracy over all settings
    settings: int  # pairs of a network and a sparsity
    replicates: int  # pairs of a network and a seed
    pairs: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def letters(self) -> dict[str, str]:
        """Letters by method: two methods share one exactly if the corrected test does not separate them.

        Compact letter display by insertion and absorption (Piepho 2004, J. Comp. Graph. Stat. 13(2)).
        """
        names = list(self.means.index)
        groups = [set(names)]
        for row in self.pairs.to_dict("records"):
            if not row["p_holm"] < LEVEL:
                continue
            a, b = row["method_a"], row["method_b"]
            split = [part for group in groups for part in ([group - {a}, group - {b}] if {a, b} <= group else [group])]
            groups = [group for i, group in enumerate(split) if not _absorbed(group, i, split)]
        groups.sort(key=lambda group: [name not in group for name in names])
        return {name: "".join(_letter(i) for i, group in enumerate(groups) if name in group) for name in names}


def _absorbed(group: Collection[str], index: int, groups: Sequence[set[str]]) -> bool:
    """Return whether another group contains this one; of equal groups the first stays."""
    own = set(group)
    return any(own < other or (own == other and i < index) for i, other in enumerate(groups) if i != index)


def _letter(index: int) -> str:
    letters = string.ascii_lowercase
    return letters[index] if index < len(letters) else f"({index + 1})"


def pool(parts: Sequence[Panel]) -> Pooled:
    """Compare every pair of methods by accuracies that are averaged over sparsities, per panel and seed.

    Methods count that have an accuracy in every panel, at the sparsities at which all of them have one; seeds count
    that have all of these. The mean difference of two methods is the mean over panels, tested as in `effect`: panels
    are fixed, seeds are the sample. A sanity transform changes the method, so panels with one count only if the study
    has no other panels.
    """
    parts = [panel for panel in parts if panel.runs["sanity"].eq("none").all()] or parts
    found = [accuracies(panel) for panel in parts]
    methods = [name for name in (found[0].methods if found else []) if all(name in each.methods for each in found)]
    if not methods:
        return Pooled(pd.Series(dtype=float), 0, 0)
    tables, settings = [], 0
    for each in found:
        values = each.part(each.seeds, each.sparsities, methods)
        lacking = np.isnan(values).min(axis=0)  # (sparsities, methods) without a run
        values = values[:, ~lacking.max(axis=1)]
        whole = values[~np.isnan(values).any(axis=(1, 2))]
        settings += values.shape[1]
        if whole.size:
            tables.append(whole.mean(axis=1))
    if not tables:
        return Pooled(pd.Series(dtype=float), 0, 0)
    means = pd.Series(np.mean([table.mean(axis=0) for table in tables], axis=0), methods)
    means = means.sort_values(ascending=False, kind="stable")
    order = [methods.index(name) for name in means.index]
    replicates = sum(map(len, tables))
    return Pooled(means, settings, replicates, _pairs(list(means.index), [table[:, order] for table in tables]))


def pooled_sentences(found: Pooled) -> list[str]:
    """Describe the order of the methods, and which of them the seeds separate."""
    if len(found.means) < 2:
        return ["No two methods have an accuracy in every network yet: there is nothing to pool."]
    order = ", ".join(f"{name} {100 * mean:.2f}" for name, mean in found.means.items())
    over = f"{counted(found.settings, 'setting')} and {counted(found.replicates, 'replicate')}"
    said = [f"Mean accuracy (%) over {over}: {order}."]
    apart = found.pairs[found.pairs["p_holm"] < LEVEL]
    said.append(f"{len(apart)} of {counted(len(found.pairs), 'pair')} of methods are separated (Holm-corrected, 0.05).")
    first = found.means.index[0]
    beaten = list(apart.loc[apart["method_a"] == first, "method_b"])
    if len(beaten) == len(found.means) - 1:
        said.append(f"{first} is better than every other method.")
    elif beaten:
        said.append(f"{first} is better than {joined(beaten)}.")
    near = found.pairs.iloc[0]
    if not isnan(near["low"]):
        interval = f"{points(near['low'])} to {points(near['high'])}"
        said.append(f"{first} minus {near['method_b']}: {points(near['difference'])} points [{interval}].")
    return said


def _pairs(names: Sequence[str], tables: Sequence[NDArray[np.float64]]) -> pd.DataFrame:
    rows = []
    for a, b in combinations(range(len(names)), 2):
        found = effect([table[:, a] - table[:, b] for table in tables])
        p = nan if found.constant else found.two_sided(0)
        rows.append((names[a], names[b], found.mean, *found.interval, p))
    table = pd.DataFrame(rows, columns=["method_a", "method_b", "difference", "low", "high", "p"])
    corrected = table["p"].to_numpy(dtype=float, copy=True)
    known = ~np.isnan(corrected)
    corrected[known] = holm(corrected[known])
    return table.assign(p_holm=corrected)
