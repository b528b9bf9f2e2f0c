"""Panels of comparable runs, and their statistics over seeds per method and sparsity."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from pbt_bench.analysis.records.columns import MISSING
from pbt_bench.analysis.records.data_frame import STATUSES
from pbt_bench.analysis.statistics.jaccard import Overlaps
from pbt_bench.analysis.statistics.labels import text_of
from pbt_bench.analysis.statistics.method_styles import method_order
from pbt_bench.spec import DENSE

_BASE = ["dataset", "model", "init", "recipe", "scoring"]  # fields that a dense baseline shares with the pruned runs
_EXTRA = ["scope", "sanity", "warmup", "rewind", "protocol", "pattern"]  # fields of pruned runs only
ENDED = ("diverged", "collapsed")  # these runs count at chance accuracy
_SETTINGS = ("recipe", "scoring")

_NONE = pd.DataFrame(
    {"method": [], "sparsity": [], "mean": [], "empty_layers": [], "effective_compression": [], "comparable": []}
)


@dataclass(frozen=True)
class Panel:
    """Comparable runs, which differ only in method, sparsity and seed."""

    dataset: str
    model: str
    setting: str  # the other axes that the study varies: "scope erk, sanity shuffle"
    slug: str  # a file name's stem, unique in the study
    runs: pd.DataFrame  # pruned runs, missing ones included
    dense: pd.DataFrame  # their dense baseline; may be empty
    printed: pd.DataFrame = field(default_factory=lambda: _NONE)  # the rows of a paper, from `with_published`
    printed_effective: pd.DataFrame = field(default_factory=lambda: _NONE)  # those with an effective compression
    notes: Sequence[str] = ()  # how the recipe of that paper differs
    bounds: Mapping[str, pd.Series] = field(default_factory=dict)  # name -> mean by sparsity, from `with_bounds`
    overlaps: Overlaps = field(default_factory=Overlaps)  # of masks, from `jaccard.mask_overlaps`

    @property
    def title(self) -> str:
        """Dataset, model and setting, for example `digits / resnet8 (scope erk)`."""
        return f"{self.dataset} / {self.model}" + (f" ({self.setting})" if self.setting else "")

    @cached_property
    def recorded(self) -> bool:
        """True if any pruned run has a record."""
        return bool(self.runs["status"].ne(MISSING).any())

    @cached_property
    def has_accuracy(self) -> bool:
        """True if any pruned run has a record, or a paper printed an accuracy for a cell."""
        return self.recorded or len(self.overlay) > 0

    @cached_property
    def diagnosed(self) -> pd.DataFrame:
        """The pruned runs whose masks are recorded layer by layer."""
        return self.runs[self.runs["layers"].notna()]

    @cached_property
    def densities(self) -> dict[Hashable, NDArray[np.float64]]:
        """The densities of all layers, as an array (seeds, layers), by (method, sparsity)."""
        cells = self.diagnosed.groupby(["method", "sparsity"])["layers"]
        return {cell: np.array([layers.densities for layers in rows]) for cell, rows in cells}

    @cached_property
    def methods(self) -> list[str]:
        """The pruning methods, in the common order of all figures and tables."""
        return method_order(self.runs["method"].unique())

    @cached_property
    def sparsities(self) -> list[float]:
        """The requested sparsities, ascending."""
        return sorted(self.runs["sparsity"].unique())

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Statistics of the pruned runs by method and sparsity, from `summarise`."""
        return summarise(self.runs)

    @cached_property
    def overlay(self) -> pd.DataFrame:
        """The rows of `printed` that figures draw, sorted by method and sparsity.

        Dense rows are excluded, and so are those of a published method that only shares its name with one of this
        project.
        """
        rows = self.printed if len(self.printed) else _NONE
        return rows[rows["comparable"].astype(bool) & (rows["method"] != DENSE)].sort_values(["method", "sparsity"])

    @cached_property
    def printed_means(self) -> pd.DataFrame:
        """The means of `overlay`: a row per sparsity of the panel, a column per method, NaN if not published."""
        means = self.overlay.pivot_table(index="sparsity", columns="method", values="mean")
        return means.reindex(self.sparsities)

    @cached_property
    def shown(self) -> set[str]:
        """The methods that have an accuracy in `cells` or `overlay`."""
        return {*self.cells["mean"].dropna().index.get_level_values("method"), *self.overlay["method"]}

    @cached_property
    def states(self) -> str:
        """The digest of the panel's records and missing runs, published rows, bounds and overlaps of masks."""
        rows = pd.concat([self.runs, self.dense])
        tables = (self.printed, self.printed_effective, self.overlaps.table, *self.bounds.values())
        shown = [self.title, *self.bounds, *(each.to_csv() for each in tables), *rows["run_id"], *rows["state"]]
        return hashlib.sha256("\n".join(shown).encode()).hexdigest()

    @cached_property
    def seeds(self) -> int:
        """The number of requested seeds."""
        return int(pd.concat([self.runs["seed"], self.dense["seed"]]).nunique())


_Part = tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]  # fields that all runs share, pruned runs, dense baseline


def panels(table: pd.DataFrame, beside_commonest: bool = False) -> list[Panel]:
    """Divide a study into panels, in the order of its rows; different settings never share a panel.

    The setting of a panel is described by all fields that vary in the study, or, if `beside_commonest`, by those that
    differ from the setting with the most runs of the same dataset and model.
    """
    parts: list[_Part] = []
    baselines = table[table["method"] == DENSE]  # they are not scored: all scorings share them
    for base, rows in table.groupby(_BASE, sort=False):
        pruned = rows[rows["method"] != DENSE]
        dense = baselines[(baselines[_BASE[:-1]] == list(base[:-1])).all(axis=1)] if len(baselines) else baselines
        for extra, runs in pruned.groupby(_EXTRA, sort=False):
            parts.append((dict(zip(_BASE + _EXTRA, (*base, *extra), strict=True)), runs, dense))
    labels = _beside_commonest(parts) if beside_commonest else _labels([_flat(setting) for setting, _, _ in parts])
    found, used = [], Counter[str]()
    for (fields, runs, dense), setting in zip(parts, labels, strict=True):
        stem = slug(f"{fields['dataset']} {fields['model']} {setting}")
        used[stem] += 1
        stem += f"-{used[stem]}" if used[stem] > 1 else ""
        found.append(Panel(fields["dataset"], fields["model"], setting, stem, runs, dense))
    return found


def slug(text: str) -> str:
    """Convert any text to the stem of a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "panel"


def summarise(runs: pd.DataFrame, values: pd.Series | None = None) -> pd.DataFrame:
    """Compute statistics of `values`, by default the test accuracy, over seeds, indexed by (method, sparsity).

    The columns are `n` (runs with a value), `mean`, `std` (ddof = 1), `half` and the number of runs of each status.
    `half` is half the 95% Student t interval of the mean, t(0.975, n-1) * std / sqrt(n); it is NaN for n < 2. Diverged
    and collapsed runs count at chance accuracy.
    """
    cells = runs.assign(value=counted_accuracy(runs) if values is None else values).groupby(["method", "sparsity"])
    table = cells.agg(n=("value", "count"), mean=("value", "mean"), std=("value", "std"))
    # stdtrit(0, p) is NaN, so the interval of a single run is NaN.
    table["half"] = stdtrit(np.maximum(table["n"] - 1, 0), 0.975) * table["std"] / np.sqrt(table["n"].clip(lower=1))
    status = pd.crosstab([runs["method"], runs["sparsity"]], runs["status"])
    return table.join(status.reindex(columns=list(STATUSES), fill_value=0))


def counted_accuracy(runs: pd.DataFrame, column: str = "test_accuracy") -> pd.Series:
    """Return the measured accuracy of each run, or chance accuracy if it diverged or collapsed."""
    return runs[column].where(~runs["status"].isin(ENDED), runs["chance_accuracy"])


def _flat(setting: dict[str, Any]) -> dict[str, object]:
    """Flatten a setting to names and values, including the fields of recipe and scoring."""
    flat = {name: value for name, value in setting.items() if name not in ("dataset", "model", *_SETTINGS)}
    for name in _SETTINGS:
        flat |= {f"{name}.{key}": value for key, value in msgspec.structs.asdict(setting[name]).items()}
    return flat


def _labels(settings: Sequence[dict[str, object]]) -> list[str]:
    """Describe each setting by the fields whose values vary."""
    varying = [name for name in (settings[0] if settings else {}) if len({setting[name] for setting in settings}) > 1]
    return [", ".join(f"{name} {text_of(setting[name])}" for name in varying) for setting in settings]


def _beside_commonest(parts: Sequence[_Part]) -> list[str]:
    commonest: dict[tuple[str, str], tuple[int, dict[str, object]]] = {}
    for fields, runs, _ in parts:
        network = fields["dataset"], fields["model"]
        if network not in commonest or len(runs) > commonest[network][0]:
            commonest[network] = len(runs), _flat(fields)
    labels = []
    for fields, _, _ in parts:
        _, common = commonest[fields["dataset"], fields["model"]]
        labels.append(", ".join(f"{k} {text_of(v)}" for k, v in _flat(fields).items() if v != common[k]))
    return labels
