"""Published numbers for the cells of a panel, and the differences between the published recipe and the panel's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from pbt_bench.analysis.records.published import About, Published
from pbt_bench.analysis.statistics.labels import text_of
from pbt_bench.analysis.statistics.panel import Panel
from pbt_bench.mask_update_schedules import SCHEDULES
from pbt_bench.pruning.plugins import pruners
from pbt_bench.recipes import PRESETS
from pbt_bench.spec import DENSE

_TOLERANCE = 0.005  # relative tolerance of the density: 0.4376587 and 1 - 10^-0.25 are the same setting
_PLAIN = {"warmup": "none", "rewind": False, "pattern": "none"}  # the values of all published runs


def matching_rows(published: Published, panel: Panel) -> pd.DataFrame:
    """Select the rows that match cells of `panel`, at most one per method and sparsity, with the panel's sparsity.

    Rows match in dataset, model, method and sparsity. All come from one file: the one whose recipe is nearest. Among
    several numbers for one cell, the preferred statistic is the one that the study records: the best over all epochs
    with `test_every_epoch`, else that of the last epoch. Among those, the preferred source shares the most cells with
    the panel and has the fewest other cells. Dense rows are pooled into one row of all their runs.

    A row takes the name of the panel's method that equals the published one: `random_erk`, or `random` in a panel with
    the scope `erk`. Scope and mask updates of both must be equal. A panel with a warm-up, rewind or a pattern matches
    no row. A panel with a sanity transform matches only rows of that transform. `comparable` is True if a row's method
    is the cell's method, and False if they only share the name.
    """
    first = panel.runs.iloc[0]
    rows: pd.DataFrame = _equal_rows(published, panel)
    of_one = ["source", "statistic"]
    printed = rows[of_one].value_counts()
    own = np.array([0.0, *panel.sparsities])
    ratios = np.abs(rows["density"].to_numpy()[:, None] / (1 - own) - 1)
    rows = rows.assign(sparsity=own[ratios.argmin(axis=1)])[ratios.min(axis=1) <= _TOLERANCE]
    rows = rows[(rows["method"] == DENSE) == (rows["sparsity"] == 0)]
    if rows.empty:
        return rows
    nearest = min(rows["file"].unique(), key=lambda name: len(_unlike(published.about[name], panel)))
    rows = rows[rows["file"] == nearest]
    shared = rows[of_one].value_counts()

    def order(one: tuple[str, str]) -> tuple[bool, int, int]:
        return one[1].startswith("max") != first["recipe"].test_every_epoch, -shared[one], printed[one]

    rows = rows.sort_values("sparsity", kind="stable").set_index(of_one, drop=False)
    rows = pd.concat([rows.loc[[one]] for one in sorted(shared.index, key=order)]).reset_index(drop=True)
    dense = rows[rows["method"] == DENSE]
    dense = dense.merge(dense[of_one].head(1), on=of_one)
    rows = pd.concat([_pooled(dense), rows[rows["method"] != DENSE]])
    return rows.drop_duplicates(["method", "sparsity"]).reset_index(drop=True)


def effective_rows(published: Published, panel: Panel, rows: pd.DataFrame) -> pd.DataFrame:
    """Select the rows with an effective compression of the file and the methods of `rows`, whatever their sparsity.

    `rows` is `matching_rows(published, panel)`.
    """
    found: pd.DataFrame = _equal_rows(published, panel)
    found = found[found["comparable"] & found["file"].isin(rows["file"]) & found["effective_compression"].notna()]
    found = found.sort_values(["method", "effective_compression"])
    return found.reset_index(drop=True)


def with_published(parts: Iterable[Panel], published: Published) -> list[Panel]:
    """Return the panels with the rows of papers in `printed` and `printed_effective`, and their differences in `notes`.

    They are from `matching_rows`, `effective_rows` and `recipe_differences`.
    """
    found = []
    for panel in parts:
        rows = matching_rows(published, panel)
        effective, notes = effective_rows(published, panel, rows), recipe_differences(published, panel, rows)
        found.append(replace(panel, printed=rows, printed_effective=effective, notes=notes))
    return found


def recipe_differences(published: Published, panel: Panel, rows: pd.DataFrame) -> list[str]:
    """Describe how the recipe of the published rows differs from the panel's, and add the notes of the rows.

    `rows` is `matching_rows(published, panel)`.
    """
    if rows.empty:
        return []
    about = published.about[rows["file"].iloc[0]]
    parts = [f"{' and '.join(rows['source'].unique())}: prints the {' and the '.join(rows['statistic'].unique())}"]
    parts += _unlike(about, panel)
    parts += [about.model_notes[model] for model in rows["published_model"].unique() if model in about.model_notes]
    parts += [note for dataset, note in about.dataset_notes.items() if dataset == panel.dataset]
    said = ["; ".join(parts) + "."]
    for note, own in rows[rows["note"] != ""].groupby("note", sort=False):
        other = own.loc[~own["comparable"], "sanity"].unique()
        only = f"; it is comparable with sanity = {other[0]!r} only" if len(other) else ""
        said.append(f"Published {', '.join(own['published_method'].unique())}: {note}{only}.")
    return said


def _equal_rows(published: Published, panel: Panel) -> pd.DataFrame:
    """Select the rows of the panel's dataset and model, under the names of the panel's methods that equal theirs."""
    first = panel.runs.iloc[0]
    rows: pd.DataFrame = published.rows
    if any(first[name] != value for name, value in _PLAIN.items()):
        rows = rows.iloc[:0]
    rows = rows[(rows["dataset"] == panel.dataset) & (rows["model"] == panel.model)]
    rows = rows.assign(method=rows["methods"]).explode("method")
    names = {label_identity(method, first["scope"]): method for method in panel.methods}
    keys = zip(rows["method"], rows["scope"], rows["mask_updates"], strict=True)
    found = [DENSE if key[0] == DENSE else names.get(key, "") for key in keys]
    rows = rows.assign(method=found)
    rows = rows[rows["method"] != ""]
    rows = rows.assign(comparable=(rows["sanity"] == first["sanity"]) | (rows["method"] == DENSE))
    return rows if first["sanity"] == "none" else rows[rows["comparable"]]


def label_identity(label: str, scope: str) -> tuple[str, str, str]:
    """Return name, scope and mask updates of the runs of a method, its own or, as in `random_erk (rigl)`, the runs'.

    The name of a method with options is its whole label.
    """
    name, _, updates = label.removesuffix(")").partition(" (")
    entry = dict(pruners().items()).get(name)
    own = (entry.scope, entry.mask_updates) if entry else (None, None)
    if updates and updates not in SCHEDULES:
        name, updates = label, ""
    return name, own[0] or scope, own[1] or updates or "none"


def _unlike(about: About, panel: Panel) -> list[str]:
    """Describe every field of the published recipe whose value differs from that of the panel's runs."""
    first = panel.runs.iloc[0]
    recipe, scoring, _ = PRESETS[about.recipes.get(panel.model, about.recipe)]
    fields = [("init", first["init"], about.init)]
    fields += [(key, getattr(first["recipe"], key), value) for key, value in recipe.items()]
    if first["protocol"] == "common":
        fields += [(f"scoring {key}", getattr(first["scoring"], key), value) for key, value in scoring.items()]
    unlike = [
        f"{key} {text_of(mine)} here, {text_of(theirs)} there"
        for key, mine, theirs in fields
        if (list(mine) if isinstance(mine, tuple) else mine) != theirs
    ]
    return unlike + ["here each method is scored as in its own code"] * (first["protocol"] != "common")


def _pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """Pool several groups of runs of one cell: mean and standard deviation (ddof = 1) over all runs."""
    if len(rows) < 2:
        return rows
    n, mean = rows["n"], rows["mean"]
    whole = (n * mean).sum() / n.sum()
    squares = ((n - 1) * rows["std"] ** 2 + n * (mean - whole) ** 2).sum()
    return rows.iloc[:1].assign(mean=whole, std=np.sqrt(squares / (n.sum() - 1)), n=n.sum(), note="")
