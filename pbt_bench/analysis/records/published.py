"""Published numbers: one data frame of all rows, and the selection of rows that match the cells of a panel."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from pbt_bench.analysis.statistics.panel import Panel
from pbt_bench.constraints import convert
from pbt_bench.errors import RequestError, unknown
from pbt_bench.recipes import PRESETS
from pbt_bench.spec import DENSE

COLUMNS = ("paper", "dataset", "model", "method", "sparsity", "top1_mean", "top1_std", "n_runs", "note")
_TOLERANCE = 0.005  # relative tolerance of the density: 0.4376587 and 1 - 10^-0.25 are the same setting
_PLAIN = {"scope": "global", "warmup": "none", "rewind": False}  # the values of all published runs


class About(msgspec.Struct, frozen=True, kw_only=True):
    """The experimental settings of one CSV file, from the TOML file of the same name."""

    recipe: str
    init: str
    statistic: str
    models: dict[str, str]
    sanity: dict[str, str] = {}  # published method -> sanity transform under which this project's method equals it
    datasets: dict[str, str] = {}
    model_notes: dict[str, str] = {}
    left_out: dict[str, str] = {}


@dataclass(frozen=True)
class Published:
    """All published rows, and the settings of their files.

    `rows` has the columns

    - `file`, `source`, `statistic`, `dataset`, `published_model`, `sparsity`, `density`, `n` and `note`;
    - `model`: the model of this project, or None if it has no equivalent;
    - `method`: "dense" at sparsity 0;
    - `mean` and `std`: fractions;
    - `sanity`: the sanity transform under which this project's method equals the published one;
    - `empty_layers`: the maximum number over runs, NaN if the source does not report it.
    """

    rows: pd.DataFrame
    about: Mapping[str, About] = field(default_factory=dict)


def published_folder(results: Path) -> Path:
    """Return `results`/published if it exists, else the project's folder of published numbers."""
    own = results / "published"
    return own if own.is_dir() else Path(__file__).parents[3] / "results" / "published"


def load_published(folder: Path) -> Published:
    """Read every CSV file of `folder` and its TOML file; a missing folder has no rows.

    Raise RequestError with the file, the line, the value and the valid values.
    """
    rows: list[dict[str, Any]] = []
    about = {}
    for path in sorted(folder.glob("*.csv")):
        about[path.stem] = _about(path.with_suffix(".toml"))
        rows += _rows(path, about[path.stem])
    columns = ["file", "source", "statistic", "dataset", "model", "published_model", "method", "sparsity", "density"]
    frame = pd.DataFrame(rows, columns=[*columns, "mean", "std", "n", "note", "sanity", "empty_layers"])
    return Published(frame.astype({"model": "object"}), about)


def matching(published: Published, panel: Panel) -> pd.DataFrame:
    """Select the rows that match cells of `panel`, at most one per method and sparsity, with the panel's sparsity.

    Rows match in dataset, model, method and sparsity. All come from one file: the one whose recipe is nearest. Among
    several numbers for one cell, the preferred statistic is the one that the study records: the best over all epochs
    with `test_every_epoch`, else that of the last epoch. Among those, the preferred source shares the most cells with
    the panel and has the fewest other cells. Dense rows are pooled into one row of all their runs.

    A panel with a scope other than `global`, a warm-up or rewind matches no row. A panel with a sanity transform
    matches only rows of that transform. `comparable` is True if a row's method is the cell's method, and False if they
    only share the name.
    """
    first = panel.runs.iloc[0]
    rows: pd.DataFrame = published.rows
    if any(first[name] != value for name, value in _PLAIN.items()):
        return rows.iloc[:0]
    rows = rows[(rows["dataset"] == panel.dataset) & (rows["model"] == panel.model)]
    rows = rows[rows["method"].isin([*panel.methods, DENSE])]
    rows = rows.assign(comparable=(rows["sanity"] == first["sanity"]) | (rows["method"] == DENSE))
    if first["sanity"] != "none":
        rows = rows[rows["comparable"]]
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


def beside(parts: Iterable[Panel], published: Published) -> list[Panel]:
    """Return the panels with their `matching` rows in `printed`, for figures."""
    return [replace(panel, printed=matching(published, panel)) for panel in parts]


def differences(published: Published, panel: Panel, rows: pd.DataFrame) -> list[str]:
    """Describe how the recipe of the published rows differs from the panel's, and add the notes of the rows.

    `rows` is `matching(published, panel)`.
    """
    if rows.empty:
        return []
    about = published.about[rows["file"].iloc[0]]
    parts = [f"{' and '.join(rows['source'].unique())}: prints the {' and the '.join(rows['statistic'].unique())}"]
    parts += _unlike(about, panel)
    parts += [about.model_notes[model] for model in rows["published_model"].unique() if model in about.model_notes]
    said = ["; ".join(parts) + "."]
    for note, own in rows[rows["note"] != ""].groupby("note", sort=False):
        other = own.loc[~own["comparable"], "sanity"].unique()
        only = f"; it is comparable with sanity = {other[0]!r} only" if len(other) else ""
        said.append(f"Published {', '.join(own['method'].unique())}: {note}{only}.")
    return said


def _unlike(about: About, panel: Panel) -> list[str]:
    """Describe every field of the published recipe whose value differs from that of the panel's runs."""
    first = panel.runs.iloc[0]
    recipe, scoring = PRESETS[about.recipe]
    fields = [("init", first["init"], about.init)]
    fields += [(key, getattr(first["recipe"], key), value) for key, value in recipe.items()]
    if first["protocol"] == "common":
        fields += [(f"scoring {key}", getattr(first["scoring"], key), value) for key, value in scoring.items()]
    unlike = [
        f"{key} {_word(mine)} here, {_word(theirs)} there"
        for key, mine, theirs in fields
        if (list(mine) if isinstance(mine, tuple) else mine) != theirs
    ]
    return unlike + ["here each method is scored as in its own code"] * (first["protocol"] != "common")


def _about(path: Path) -> About:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not a TOML file: {error}") from None
    about = convert(table, About, str(path))
    if about.recipe not in PRESETS:
        raise unknown("recipe", about.recipe, PRESETS, str(path))
    return about


def _rows(path: Path, about: About) -> list[dict[str, Any]]:
    """Read and check the rows of one CSV file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                raise RequestError(f"{path}: no column {', '.join(lacking)} (needed: {', '.join(COLUMNS)})")
            rows = [_row(line, about, path, f"{path}, line {reader.line_num}") for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path}: not a csv file: {error}") from None
    places: dict[tuple[Any, ...], int] = {}
    for number, row in enumerate(rows):
        named = ("source", "statistic", "dataset", "published_model", "of", "sparsity")
        key = tuple(row[name] for name in named)
        if key in places:
            raise RequestError(f"{path}: data rows {places[key] + 1} and {number + 1} are of the same cell {key}")
        places[key] = number
    return rows


def _row(line: Mapping[str, Any], about: About, path: Path, where: str) -> dict[str, Any]:
    if None in line or None in line.values():
        raise RequestError(f"{where}: more or fewer fields than columns")
    model, dataset = line["model"], line["dataset"]
    if model not in about.models and model not in about.left_out:
        raise unknown("model", model, [*about.models, *about.left_out], where)
    sparsity = _number(line, "sparsity", 0, 1, where)
    method = line["method"].strip()
    if not method or not dataset:
        raise RequestError(f"{where}: a row needs a dataset and a method")
    return {
        "file": path.stem,
        "source": line["paper"] + (f", {line['source']}" if line.get("source") else ""),
        "statistic": line.get("statistic") or about.statistic,
        "dataset": about.datasets.get(dataset, dataset),
        "model": about.models.get(model),
        "published_model": model,
        "method": DENSE if sparsity == 0 else method,
        "of": method,
        "sparsity": sparsity,
        "density": _number(line, "density", 0, 1, where) if line.get("density") else 1 - sparsity,
        "mean": _number(line, "top1_mean", 0, 100, where) / 100,
        "std": _number(line, "top1_std", 0, 100, where) / 100 if line["top1_std"] else np.nan,
        "n": round(_number(line, "n_runs", 1, 10**6, where)),
        "note": line["note"].strip() or about.left_out.get(model, ""),
        "sanity": about.sanity.get(method, "none"),
        "empty_layers": _number(line, empty, 0, 10**6, where) if line.get(empty := "max_empty_layers") else np.nan,
    }


def _number(line: Mapping[str, Any], name: str, low: float, high: float, where: str) -> float:
    try:
        value = float(line[name])
    except ValueError:
        value = np.nan
    if not low <= value <= high:
        raise RequestError(f"{where}: {name} = {line[name]!r} must be a number from {low} to {high}")
    return value


def _pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """Pool several groups of runs of one cell: mean and standard deviation (ddof = 1) over all runs."""
    if len(rows) < 2:
        return rows
    n, mean = rows["n"], rows["mean"]
    whole = (n * mean).sum() / n.sum()
    squares = ((n - 1) * rows["std"] ** 2 + n * (mean - whole) ** 2).sum()
    return rows.iloc[:1].assign(mean=whole, std=np.sqrt(squares / (n.sum() - 1)), n=n.sum(), note="")


def _word(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
