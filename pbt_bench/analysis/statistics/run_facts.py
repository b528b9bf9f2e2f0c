"""Facts about the runs of a study: its axes and settings, where it ran, whether its masks are exact, its scoring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
import pandas as pd

from pbt_bench.analysis.records.columns import MISSING, PER_RUN
from pbt_bench.analysis.statistics.labels import text_of
from pbt_bench.analysis.statistics.method_styles import method_order
from pbt_bench.spec import DENSE, RunSpec

_MOST = 20  # distinct errors, or values of one environment field, shown before "and n more"


def study_axes(table: pd.DataFrame) -> dict[str, str]:
    """Return the axes of the study and their values, without axes that have only their default value."""
    pruned = table[table["method"] != DENSE]
    defaults = {field.name: field.default for field in msgspec.structs.fields(RunSpec)}
    shown = {}
    for name in ("dataset", "model", "method", "sparsity", "seed", *defaults):
        if name in ("recipe", "scoring") or name in shown:
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

    Both comparisons are exact to one weight.
    """
    pruned = table.dropna(subset=["realised_sparsity", "mask_sparsity"])
    weights = pruned["prunable"].astype("float64")
    realised = (pruned["realised_sparsity"] - pruned["mask_sparsity"]).abs() * weights
    asked = pruned["sparsity"] * weights - (weights - pruned["kept"].astype("float64"))
    return {
        "runs": len(pruned),
        "realised": int((realised < 0.5).sum()),
        # floor(sparsity * prunable) is less than one weight below the product; -1e-3 allows for rounding of floats.
        "exact": int(asked.between(-1e-3, 1, inclusive="left").sum()),
    }


def scoring_summary(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Summarise the scoring of each method: zero scores, ties at the threshold, runs with empty layers, seconds."""
    pruned = table[(table["method"] != DENSE) & table["prunable"].notna()]
    rows = []
    for method in method_order(pruned["method"].unique()):
        own = pruned[pruned["method"] == method]
        rows.append(
            {
                "method": method,
                "runs": len(own),
                "zero_mean": own["zero_score_share"].mean(),
                "zero_max": own["zero_score_share"].max(),
                # With more zero scores than pruned weights, order alone decides which zero scores are kept.
                "tied": int((own["zero_score_share"] > own["mask_sparsity"]).sum()),
                "collapsed": int((own["collapsed_layers"] > 0).sum()),
                "seconds": own["scoring_seconds"].median(),
            }
        )
    return rows


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


def commonest(values: Iterable[str]) -> list[tuple[str, int]]:
    """Count distinct values, most frequent first; combine those after the first 20 into one entry."""
    ranked = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    rest = ranked[_MOST:]
    return ranked[:_MOST] + ([(f"… and {len(rest)} more", sum(n for _, n in rest))] if rest else [])
