"""Facts about the runs of a study: its axes and settings, where it ran, whether its masks are exact, its scoring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from pbt_bench.analysis.records.columns import MISSING, PER_RUN
from pbt_bench.analysis.records.data_frame import NESTED
from pbt_bench.analysis.statistics.labels import layer_labels, text_of
from pbt_bench.analysis.statistics.method_styles import method_order
from pbt_bench.analysis.statistics.panel import Panel
from pbt_bench.spec import DENSE, RunSpec

_VALUES_SHOWN = 20  # distinct errors, or values of one environment field, shown before "and n more"


def study_axes(table: pd.DataFrame) -> dict[str, str]:
    """Return the axes of the study and their values, without axes that have only their default value."""
    pruned = table[table["method"] != DENSE]
    defaults = {field.name: field.default for field in msgspec.structs.fields(RunSpec)}
    shown = {}
    for name in ("dataset", "model", "method", "sparsity", "seed", *defaults):
        if name in NESTED or name in shown:
            continue
        values = list(dict.fromkeys(pruned[name]))
        if name == "method":
            values = method_order(values)
        if values != [defaults[name]]:
            shown[name] = ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    return shown


def settings(specs: Iterable[RunSpec]) -> dict[str, dict[str, str]]:
    """Return all values that occur of each field of recipe and scoring."""
    shown: dict[str, dict[str, dict[str, None]]] = {"recipe": {}, "scoring": {}}
    for kind, fields in shown.items():
        for part in dict.fromkeys(getattr(spec, kind) for spec in specs):
            for name, value in msgspec.structs.asdict(part).items():
                fields.setdefault(name, {})[text_of(value)] = None
    return {kind: {name: " or ".join(values) for name, values in fields.items()} for kind, fields in shown.items()}


def mask_audit(table: pd.DataFrame) -> dict[str, int]:
    """Count the runs whose realised sparsity equals the mask's, and those whose mask has the requested sparsity.

    Both comparisons are exact to one weight. With a pattern, another number of weights is pruned: these runs are
    counted apart.
    """
    pruned = table.dropna(subset=["realised_sparsity", "mask_sparsity"])
    weights = pruned["prunable"].astype("float64")
    realised = (pruned["realised_sparsity"] - pruned["mask_sparsity"]).abs() * weights
    asked = pruned["sparsity"] * weights - (weights - pruned["kept"].astype("float64"))
    return {
        "runs": len(pruned),
        "realised": int((realised < 0.5).sum()),
        # floor(sparsity * prunable) is less than one weight below the product; -1e-3 allows for rounding of floats.
        "exact": int((asked.between(-1e-3, 1, inclusive="left") & (pruned["pattern"] == "none")).sum()),
        "patterned": int((pruned["pattern"] != "none").sum()),
    }


def scoring_summary(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Summarise the scoring of each method: zero scores, ties at the threshold, runs with empty layers, seconds."""
    pruned = table[(table["method"] != DENSE) & table["prunable"].notna()]
    pruned = pruned.assign(
        # With more zero scores than pruned weights, order alone decides which zero scores are kept.
        tied=pruned["zero_score_share"] > pruned["mask_sparsity"],
        collapsed=pruned["collapsed_layers"] > 0,
    )
    rows = pruned.groupby("method").agg(
        runs=("method", "size"),
        zero_mean=("zero_score_share", "mean"),
        zero_max=("zero_score_share", "max"),
        tied=("tied", "sum"),
        collapsed=("collapsed", "sum"),
        seconds=("scoring_seconds", "median"),
    )
    return rows.loc[method_order(rows.index)].reset_index().to_dict("records")


@dataclass(frozen=True)
class Zeros:
    """Shares by layer (rows, from input to output) and method, as formatted percent; "0" means no weight."""

    methods: list[str]
    rows: list[tuple[str, list[str]]]

    @property
    def none(self) -> bool:
        """True if no method gives any weight a score of exactly zero."""
        return all(text == "0" for _, cells in self.rows for text in cells)


def layer_zeros(panel: Panel) -> Zeros:
    """Compute the share of exactly zero scores in each layer, as the mean over the runs of a method.

    Scores are counted in the first round, before any pruning, so they do not depend on sparsity.
    """
    runs = panel.diagnosed
    shares = {
        method: np.mean([layers.zero_scores / np.maximum(layers.prunable, 1) for layers in own["layers"]], axis=0)
        for method, own in runs.groupby("method")
    }
    methods = [method for method in panel.methods if method in shares]
    names = layer_labels(runs["layers"].iloc[0].names) if methods else []
    rows = [(name, [_percentage(shares[method][i]) for method in methods]) for i, name in enumerate(names)]
    return Zeros(methods, rows)


def _percentage(share: float) -> str:
    if share == 0:
        return "0"
    return "< 0.01" if share < 5e-5 else f"{100 * share:.2f}"


def environments(table: pd.DataFrame) -> dict[str, list[tuple[str, int]]]:
    """Return all values of each environment field, with the number of runs that recorded each value."""
    values: dict[str, list[str]] = {}
    for environment in table.loc[table["status"] != MISSING, "environment"]:
        for name, value in environment.items():
            if name in PER_RUN:
                continue
            fields = value if isinstance(value, dict) else {"": value}
            for key, item in fields.items():
                values.setdefault(f"{name} {key}".strip(), []).append(str(item))
    return {name: commonest(found) for name, found in sorted(values.items())}


_DECISIVE = ("device", "device_name", "processor", "sparse_kernels", "torch", "numpy", "pbt_bench", "commit")


def environment_notes(found: Mapping[str, Sequence[tuple[str, int]]]) -> list[str]:
    """Say which parts of the environment that decide numbers differ between runs, and how many used changed code."""
    notes = []
    for name in _DECISIVE:
        if len(values := found.get(name, ())) > 1:
            shown = ", ".join(f"{value} ({count} runs)" for value, count in values)
            notes.append(f"The tables mix runs of different {name.replace('_', ' ')}: {shown}.")
    if changed := dict(found.get("dirty", ())).get("True"):
        notes.append(f"{changed} runs were made by code with uncommitted changes.")
    return notes


def commonest(values: Iterable[str]) -> list[tuple[str, int]]:
    """Count distinct values, most frequent first; combine those after the first 20 into one entry."""
    ranked = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    rest = ranked[_VALUES_SHOWN:]
    return ranked[:_VALUES_SHOWN] + ([(f"… and {len(rest)} more", sum(n for _, n in rest))] if rest else [])
