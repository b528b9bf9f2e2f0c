"""Facts that a reader needs to judge a study: test sets, sizes of networks, sources of methods, code and time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

import numpy as np
import pandas as pd

from pbt_bench.analysis.records.columns import MISSING
from pbt_bench.analysis.statistics.labels import counted, tick_label
from pbt_bench.analysis.statistics.method_styles import method_order
from pbt_bench.data import datasets
from pbt_bench.errors import RequestError
from pbt_bench.models import find
from pbt_bench.pruning.plugins import pruners
from pbt_bench.running.progress import duration
from pbt_bench.spec import DENSE

_WHOLE = 1e-6  # images: a share of correct images times their number is an integer up to the rounding of floats
_COMMIT_DIGITS = 12


@dataclass(frozen=True)
class NetworkSize:
    """The size of one network, from its records; counts are formatted text, "–" if no record has them."""

    network: str  # dataset / model
    about: str  # the model's summary
    layers: str
    prunable: str
    flops: str
    kept: list[str]  # weights kept at each sparsity


@dataclass(frozen=True)
class MethodSource:
    """The summary of a method and its publication."""

    name: str
    summary: str
    cite: str
    arxiv: str  # its number, "" if the citation has none
    file: str  # of the project or of a user; "" if the method is not installed
    page: str  # the address of its page of the documentation, "" if that has no address


def image_worth_sentences(table: pd.DataFrame) -> list[str]:
    """State the size of each dataset's test set, and what one image is worth, if the records agree with that size."""
    known = dict(datasets().items())
    said = []
    for dataset, runs in table.groupby("dataset", sort=False):
        images = known[str(dataset)].test_images if dataset in known else None
        correct = runs["test_accuracy"].dropna().to_numpy() * (images or np.nan)
        if images and (np.abs(correct - correct.round()) < _WHOLE * images).all():
            worth = f"one image is {100 / images:.2g} percentage points of accuracy"
            said.append(f"{dataset} has {images:,} test images: {worth}.")
    return said


def network_sizes(table: pd.DataFrame, sparsities: Sequence[float]) -> list[NetworkSize]:
    """Return the size of every network of a study, and the weights that its masks keep at each sparsity."""
    found = []
    for (dataset, model), runs in table.groupby(["dataset", "model"], sort=False):
        kept = runs[runs["method"] != DENSE].groupby("sparsity")["kept"]
        ranges = {sparsity: _range(own) for sparsity, own in kept}
        layers = pd.Series([len(each) for each in runs["layers"].dropna()], dtype="float64")
        numbers = (_range(layers), _range(runs["prunable"]), _range(runs["flops_dense"]))
        found.append(
            NetworkSize(f"{dataset} / {model}", _about(model), *numbers, [ranges.get(each, "–") for each in sparsities])
        )
    return found


def sparsity_labels(table: pd.DataFrame) -> tuple[list[float], list[str]]:
    """Return the sparsities of a study, ascending, and their labels."""
    found = sorted(table.loc[table["method"] != DENSE, "sparsity"].unique())
    return found, [tick_label(sparsity) for sparsity in found]


def method_sources(methods: Iterable[str]) -> list[MethodSource]:
    """Return the source of each method, in the fixed order; variants of one method by options are one entry."""
    known = dict(pruners().items())
    found = []
    for name in dict.fromkeys(method.partition(" (")[0] for method in method_order(methods)):
        entry = known.get(name)
        if entry is None:
            found.append(MethodSource(name, "not installed when this report was written", "", "", "", ""))
            continue
        arxiv = re.search(r"arXiv:(\d{4}\.\d{4,5})", entry.cite)
        file = f"methods/{entry.file.name}" if entry.shipped else entry.file.name
        page = f"{_documentation()}/methods/{name}.html" if entry.shipped and _documentation() else ""
        found.append(MethodSource(name, entry.summary, entry.cite, arxiv[1] if arxiv else "", file, page))
    return found


def provenance(table: pd.DataFrame) -> dict[str, str]:
    """Return when the runs of a study were made, how long they took together, and by which commits."""
    made = [_strings(each) for each in table.loc[table["status"] != MISSING, "environment"]]
    days = sorted(each["started"][:10] for each in made if "started" in each)
    seconds = [float(each["seconds"]) for each in made if "seconds" in each]
    commits: dict[str, int] = {}
    for each in made:
        if "commit" in each:
            changed = {"True": "with uncommitted changes", "False": "clean"}.get(each.get("dirty", ""), "")
            name = f"{each['commit'][:_COMMIT_DIGITS]}" + (f" ({changed})" if changed else "")
            commits[name] = commits.get(name, 0) + 1
    found = {}
    if days:
        found["date"] = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    if seconds:
        found["time of all runs"] = f"{duration(sum(seconds))} ({counted(len(seconds), 'run')}, added up)"
    if commits:
        several = len(commits) > 1
        parts = [f"{name}" + f", {counted(n, 'run')}" * several for name, n in commits.items()]
        found["commits" if several else "commit"] = "; ".join(parts)
    return found


@cache
def _documentation() -> str:
    """Return the address of the documentation in the package's metadata; "" if it is a placeholder or not there."""
    try:
        urls = metadata("pbt-bench").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    found = [url for name, _, url in (each.partition(", ") for each in urls) if name == "Documentation"]
    return found[0].rstrip("/") if found and "OWNER" not in found[0] else ""


def _strings(environment: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in environment.items() if value is not None}


def _about(model: object) -> str:
    try:
        return find(str(model)).summary
    except RequestError:
        return ""


def _range(values: pd.Series) -> str:
    """Format the values of a column: one number, or the smallest and the largest."""
    known = values.dropna().astype("float64")
    if known.empty:
        return "–"
    low, high = known.min(), known.max()
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
