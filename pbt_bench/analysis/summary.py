"""Runs -> panels of comparable runs -> one row of statistics per method and sparsity."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from scipy.special import stdtrit

from pbt_bench.analysis.frame import STATUSES
from pbt_bench.analysis.style import method_order
from pbt_bench.spec import DENSE

_BASE = ["dataset", "model", "init", "recipe", "scoring"]  # what a dense baseline shares with the pruned runs
_EXTRA = ["scope", "sanity", "warmup", "rewind", "protocol"]  # what only a pruned run has
ENDED = ("diverged", "collapsed")  # these runs count at chance accuracy
_NESTED = ("recipe", "scoring")
_OVER_SEEDS = {"n": "count", "mean": "mean", "std": "std"}

_NONE = pd.DataFrame({"method": [], "sparsity": [], "mean": [], "empty_layers": [], "comparable": []})


@dataclass(frozen=True)
class Panel:
    """Runs that may be compared: they differ in method, sparsity and seed, and in nothing else."""

    dataset: str
    model: str
    setting: str  # the other choices, where the study varies them: "scope erk, sanity shuffle"
    slug: str  # a file name's stem, unique in the study
    runs: pd.DataFrame  # pruned runs, missing ones included
    dense: pd.DataFrame  # their baseline, perhaps empty
    printed: pd.DataFrame = field(default_factory=lambda: _NONE)  # the rows of a paper, from `published.beside`
    bounds: Mapping[str, pd.Series] = field(default_factory=dict)  # name -> mean by sparsity, from `bounds.bounded`

    @property
    def title(self) -> str:
        """`digits / resnet8 (scope erk)`."""
        return f"{self.dataset} / {self.model}" + (f" ({self.setting})" if self.setting else "")

    @cached_property
    def methods(self) -> list[str]:
        """The pruning methods, in the one order of all figures and tables."""
        return method_order(self.runs["method"].unique())

    @cached_property
    def sparsities(self) -> list[float]:
        """The nominal sparsities, ascending."""
        return sorted(self.runs["sparsity"].unique())

    @cached_property
    def cells(self) -> pd.DataFrame:
        """`summarise` of the pruned runs."""
        return summarise(self.runs)

    @cached_property
    def overlay(self) -> pd.DataFrame:
        """The rows of `printed` that a figure may draw as this panel's methods, without dense; by method and sparsity.

        Left out are those of another method that only has the name of one here.
        """
        rows = self.printed if len(self.printed) else _NONE
        return rows[rows["comparable"].astype(bool) & (rows["method"] != DENSE)].sort_values(["method", "sparsity"])

    @cached_property
    def printed_means(self) -> pd.DataFrame:
        """The means of `overlay`: a row per sparsity of the study, a column per method, NaN where none is printed."""
        means = self.overlay.pivot_table(index="sparsity", columns="method", values="mean")
        return means.reindex(self.sparsities)

    @cached_property
    def shown(self) -> set[str]:
        """The methods that have an accuracy, here or in `overlay`."""
        return {*self.cells["mean"].dropna().index.get_level_values("method"), *self.overlay["method"]}

    @cached_property
    def states(self) -> str:
        """A digest of all its records, the runs that have none, and what is drawn beside them."""
        rows = pd.concat([self.runs, self.dense])
        others = [self.printed.to_csv(), *(f"{name} {means.to_csv()}" for name, means in self.bounds.items())]
        shown = [self.title, *others, *rows["run_id"], *rows["state"]]
        return hashlib.sha256("\n".join(shown).encode()).hexdigest()

    @cached_property
    def seeds(self) -> int:
        """How many seeds were asked for."""
        return int(pd.concat([self.runs["seed"], self.dense["seed"]]).nunique())


def panels(table: pd.DataFrame) -> list[Panel]:
    """The comparable parts of a study, in the order of its rows. No two settings ever share a panel."""
    parts: list[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]] = []
    for base, rows in table.groupby(_BASE, sort=False):
        pruned = rows[rows["method"] != DENSE]
        dense = rows[rows["method"] == DENSE]
        for extra, runs in pruned.groupby(_EXTRA, sort=False):
            parts.append((dict(zip(_BASE + _EXTRA, (*base, *extra), strict=True)), runs, dense))
    labels = _labels([_flat(place) for place, _, _ in parts])
    found, used = [], Counter[str]()
    for (place, runs, dense), setting in zip(parts, labels, strict=True):
        stem = slug(f"{place['dataset']} {place['model']} {setting}")
        used[stem] += 1
        stem += f"-{used[stem]}" if used[stem] > 1 else ""
        found.append(Panel(place["dataset"], place["model"], setting, stem, runs, dense))
    return found


def slug(text: str) -> str:
    """A file name's stem from any text."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "panel"


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Statistics over seeds of the test accuracy, indexed by (method, sparsity).

    Columns: `n` runs with an accuracy, `mean`, `std` (ddof = 1), `half` (half the 95% Student t interval of the mean:
    t(0.975, n-1) * std / sqrt(n); NaN for n < 2), and the number of runs of each status. Diverged and collapsed runs
    count at chance accuracy.
    """
    cells = runs.assign(accuracy=counted_accuracy(runs)).groupby(["method", "sparsity"])
    table = cells.agg(**{name: ("accuracy", how) for name, how in _OVER_SEEDS.items()})
    # stdtrit(0, p) is NaN, and so is the interval of a single run.
    table["half"] = stdtrit(np.maximum(table["n"] - 1, 0), 0.975) * table["std"] / np.sqrt(table["n"].clip(lower=1))
    status = pd.crosstab([runs["method"], runs["sparsity"]], runs["status"])
    return table.join(status.reindex(columns=list(STATUSES), fill_value=0))


def counted_accuracy(runs: pd.DataFrame, column: str = "test_accuracy") -> pd.Series:
    """The accuracy that counts: the measured one, that of guessing for a run that diverged or collapsed."""
    return runs[column].where(~runs["status"].isin(ENDED), runs["chance_accuracy"])


def _flat(place: dict[str, Any]) -> dict[str, object]:
    """A setting as plain names and values, the fields of recipe and scoring among them."""
    flat = {name: value for name, value in place.items() if name not in ("dataset", "model", *_NESTED)}
    for name in _NESTED:
        flat |= {f"{name}.{key}": value for key, value in msgspec.structs.asdict(place[name]).items()}
    return flat


def _labels(settings: Sequence[dict[str, object]]) -> list[str]:
    """Each setting in words: only the names whose value varies."""
    varying = [name for name in (settings[0] if settings else {}) if len({setting[name] for setting in settings}) > 1]
    return [", ".join(f"{name} {_word(setting[name])}" for name in varying) for setting in settings]


def _word(value: object) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
