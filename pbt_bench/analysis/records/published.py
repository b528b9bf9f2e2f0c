"""Numbers printed in papers: the CSV and TOML files of `results/published` as one data frame."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from pbt_bench import shipped
from pbt_bench.constraints import convert, read_toml
from pbt_bench.errors import RequestError, note_once, unknown
from pbt_bench.recipes import PRESETS
from pbt_bench.spec import DENSE

PUBLISHED_COLUMNS = ("paper", "dataset", "model", "method", "sparsity", "top1_mean", "top1_std", "n_runs", "note")

_EFFECTIVE = "its masks keep as many weights as the masks whose layer counts they take have on paths to the output"


class Equal(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of this project that equal those of a published method."""

    methods: list[str]  # names of one method, with options as in `RunSpec.variant`: "mica (layer_counts igq)"
    scope: str = "global"  # of the run, or the method's own
    mask_updates: str = "none"


class About(msgspec.Struct, frozen=True, kw_only=True):
    """The experimental settings of one CSV file, from the TOML file of the same name."""

    recipe: str
    init: str
    statistic: str
    models: dict[str, str]
    recipes: dict[str, str] = {}  # model of this project -> its recipe, if it has another
    sanity: dict[str, str] = {}  # published method -> sanity transform under which this project's method equals it
    methods: dict[str, Equal] = {}  # published method -> runs of this project, unless they have its name and no scope
    datasets: dict[str, str] = {}
    model_notes: dict[str, str] = {}
    method_notes: dict[str, str] = {}
    dataset_notes: dict[str, str] = {}
    left_out: dict[str, str] = {}  # published model or dataset -> why it has no equivalent
    effective: dict[str, list[str]] = {}  # dataset -> methods that keep as many weights as were effective


@dataclass(frozen=True)
class Published:
    """All published rows, and the settings of their files.

    `rows` has the columns

    - `file`, `source`, `statistic`, `dataset`, `published_model`, `published_method`, `sparsity`, `n` and `note`;
    - `density`: the share of kept weights, 0 for an `effective` method whose number is not printed;
    - `effective_compression`: weights / effective weights, NaN if the source does not report it;
    - `model`: the model of this project, or None if it has no equivalent;
    - `method`: "dense" at sparsity 0;
    - `methods`, `scope` and `mask_updates`: the runs of this project that equal the published ones;
    - `mean` and `std`: fractions;
    - `sanity`: the sanity transform under which this project's method equals the published one;
    - `empty_layers`: the maximum number over runs, NaN if the source does not report it.
    """

    rows: pd.DataFrame
    about: Mapping[str, About] = field(default_factory=dict)


def published_beside(results: Path) -> Published:
    """Read the shipped files of published numbers, or the files of the same name in `results`/published.

    Print a note if there is no file at all. Raise RequestError as `load_published` does.
    """
    found = shipped.files(shipped.PUBLISHED_NUMBERS, results / "published")
    if not found:
        note_once(f"no published numbers: neither {results / 'published'} nor the installation has a csv file of them")
    return _of_files(found.values())


def load_published(folder: Path) -> Published:
    """Read every CSV file of `folder` and its TOML file; a missing folder has no rows.

    Raise RequestError with the file, the line, the value and the valid values.
    """
    return _of_files(sorted(folder.glob("*.csv")))


def _of_files(paths: Iterable[Path]) -> Published:
    rows: list[dict[str, Any]] = []
    about = {}
    for path in paths:
        about[path.stem] = _about(path.with_suffix(".toml"))
        rows += _rows(path, about[path.stem])
    columns = ["file", "source", "statistic", "dataset", "model", "published_model", "method", "sparsity", "density"]
    columns += ["published_method", "mean", "std", "n", "note", "sanity", "empty_layers", "effective_compression"]
    frame = pd.DataFrame(rows, columns=[*columns, "methods", "scope", "mask_updates"])
    return Published(frame.astype({"model": "object"}), about)


def _about(path: Path) -> About:
    about = convert(read_toml(path), About, str(path))
    for recipe in (about.recipe, *about.recipes.values()):
        if recipe not in PRESETS:
            raise unknown("recipe", recipe, PRESETS, str(path))
    return about


def _rows(path: Path, about: About) -> list[dict[str, Any]]:
    """Read and check the rows of one CSV file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            lacking = [name for name in PUBLISHED_COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                raise RequestError(f"{path}: no column {', '.join(lacking)} (needed: {', '.join(PUBLISHED_COLUMNS)})")
            rows = [_row(line, about, path, f"{path}, line {reader.line_num}") for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path}: not a csv file: {error}") from None
    first: dict[tuple[Any, ...], int] = {}
    for number, row in enumerate(rows):
        named = ("source", "statistic", "dataset", "published_model", "published_method", "sparsity")
        key = tuple(row[name] for name in named)
        if key in first:
            raise RequestError(f"{path}: data rows {first[key] + 1} and {number + 1} are of the same cell {key}")
        first[key] = number
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
    name = DENSE if sparsity == 0 else method
    equal = about.methods.get(name, Equal(methods=[name]))
    left_out = about.left_out.get(model) or about.left_out.get(dataset)
    notes = [left_out] if left_out else [line["note"].strip(), about.method_notes.get(name)]
    density = _number(line, "density", 0, 1, where) if line.get("density") else 1 - sparsity
    effective = np.nan
    if line.get("effective_compression"):
        effective = _number(line, "effective_compression", 1, 10**12, where)
    if method in about.effective.get(dataset, ()):
        density = 0 if np.isnan(effective) else 1 / effective
        notes += [_EFFECTIVE]
    return {
        "file": path.stem,
        "source": line["paper"] + (f", {line['source']}" if line.get("source") else ""),
        "statistic": line.get("statistic") or about.statistic,
        "dataset": about.datasets.get(dataset, dataset),
        "model": None if left_out else about.models[model],
        "published_model": model,
        "method": name,
        "published_method": method,
        "sparsity": sparsity,
        "density": density,
        "mean": _number(line, "top1_mean", 0, 100, where) / 100,
        "std": _number(line, "top1_std", 0, 100, where) / 100 if line["top1_std"] else np.nan,
        "n": round(_number(line, "n_runs", 1, 10**6, where)),
        "note": "; ".join(filter(None, notes)),
        "sanity": about.sanity.get(method, "none"),
        "empty_layers": _number(line, empty, 0, 10**6, where) if line.get(empty := "max_empty_layers") else np.nan,
        "effective_compression": effective,
        "methods": equal.methods,
        "scope": equal.scope,
        "mask_updates": equal.mask_updates,
    }


def _number(line: Mapping[str, Any], name: str, low: float, high: float, where: str) -> float:
    try:
        value = float(line[name])
    except ValueError:
        value = np.nan
    if not low <= value <= high:
        raise RequestError(f"{where}: {name} = {line[name]!r} must be a number from {low} to {high}")
    return value
