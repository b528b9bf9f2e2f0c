"""Jaccard index of the masks of two methods, and its value for independent random masks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pbt_bench.analysis.statistics.method_styles import method_order
from pbt_bench.running.store import Store

Masks = Mapping[str, NDArray[np.bool_]]

_PAIR = ["sparsity", "method_a", "method_b"]
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.int64)  # bits of a byte


@dataclass(frozen=True)
class Overlaps:
    """The mask overlaps of all pairs of methods of one panel: a row of `table` per pair, methods in the fixed order."""

    table: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=[*_PAIR, "jaccard", "chance", "n"]))
    finished: int = 0  # runs with a mask
    unread: int = 0  # finished runs whose mask is not stored; excluded from the table


class _Kept(NamedTuple):
    """The mask of one run with eight weights per byte, and the kept and prunable weights of each layer."""

    bits: NDArray[np.uint8]
    kept: NDArray[np.int64]
    sizes: NDArray[np.int64]


def mask_overlaps(runs: pd.DataFrame, read: Callable[[str], Masks | None]) -> Overlaps:
    """Compute the overlap of every two methods at every sparsity of one panel, averaged over their common seeds.

    `read` returns the masks of a run id by layer, or None if they are not stored. Memory holds the masks of one
    sparsity and seed at a time, with one bit per weight.

    `jaccard` is J = |A and B| / |A or B| over the kept weights A and B of two runs of the same seed, all layers
    together. `chance` is the same index for independent random masks with the same numbers of kept weights in each
    layer l. Its intersection is the mean of the hypergeometric distribution,

        I = sum_l k_A[l] * k_B[l] / n[l],    J_chance = I / (k_A + k_B - I),

    with k the kept and n the prunable weights. This ratio of means differs from the mean ratio by about one part in
    k_A + k_B. Two empty masks are equal: `jaccard` and `chance` are 1.
    """
    finished = runs[runs["layers"].notna()]
    rows, unread = [], 0
    # itertools instead of pandas' groupby: 100,000 runs can have 10,000 groups.
    ordered = finished.sort_values(["sparsity", "seed"], kind="stable")
    rows_of_runs = zip(*(ordered[name].tolist() for name in ("sparsity", "seed", "method", "run_id")), strict=True)
    for (sparsity, _), group in itertools.groupby(rows_of_runs, key=lambda run: run[:2]):
        kept = {}
        for _, _, method, run_id in group:
            masks = read(run_id)
            if masks is None:
                unread += 1
            else:
                kept[method] = _pack(masks)
        for a, b in itertools.combinations(method_order(kept), 2):
            rows.append((sparsity, a, b, *_overlap(kept[a], kept[b])))
    table = pd.DataFrame(rows, columns=[*_PAIR, "jaccard", "chance"])
    table = table.astype({"sparsity": "float64", "jaccard": "float64", "chance": "float64"})
    pairs = table.groupby(_PAIR, sort=False)
    table = pairs.agg(jaccard=("jaccard", "mean"), chance=("chance", "mean"), n=("jaccard", "size")).reset_index()
    order = {method: rank for rank, method in enumerate(method_order(runs["method"].unique()))}
    table = table.sort_values(_PAIR, key=lambda column: column.replace(order), ignore_index=True)
    return Overlaps(table, len(finished), unread)


def jaccard(a: Masks, b: Masks) -> tuple[float, float]:
    """Compute the Jaccard index of two masks and its value by chance, as `mask_overlaps` does."""
    return _overlap(_pack(a), _pack(b))


def mask_reader(store: Store, table: pd.DataFrame) -> Callable[[str], Masks | None]:
    """Return a function that reads the masks of a run id of `table`, or returns None if they are not stored."""
    stored = store.masked()
    here = table[table["run_id"].isin(stored)]
    parts = dict(zip(here["run_id"], zip(here["layers"], here["mask_digest"], strict=True), strict=True))
    return lambda run_id: store.masks_of(run_id, *parts[run_id]) if run_id in parts else None


def overlap_sentence(found: Overlaps) -> str:
    """Describe the pair furthest above chance at the highest sparsity, the pair of SNIP and FTS, and unread masks."""
    counts = f"{found.unread} of {found.finished}"
    unread = f" {counts} finished runs have no stored mask and are left out." if found.unread else ""
    if found.table.empty:
        return f"No two methods with a stored mask at the same sparsity and seed.{unread}"
    highest = found.table["sparsity"].max()
    pairs = found.table[found.table["sparsity"] == highest]
    above = pairs["jaccard"] - pairs["chance"]
    best = pairs.loc[above.idxmax()]
    if above.max() > 0:
        said = f"At sparsity {highest:g}, {_said(best, ' share the most beyond chance')}."
    else:
        said = f"At sparsity {highest:g} no two methods share more than chance gives; the nearest are {_said(best)}."
    known = pairs[(pairs["method_a"] == "snip") & (pairs["method_b"] == "fts")]
    if len(known) and known.index[0] != best.name:
        said += f" {_said(known.iloc[0])}."
    return said + unread


def _pack(masks: Masks) -> _Kept:
    return _Kept(
        np.packbits(np.concatenate([mask.ravel() for mask in masks.values()])),
        np.array([np.count_nonzero(mask) for mask in masks.values()], dtype=np.int64),
        np.array([mask.size for mask in masks.values()], dtype=np.int64),
    )


def _overlap(a: _Kept, b: _Kept) -> tuple[float, float]:
    """Compute the Jaccard index of two masks and its value by chance."""
    total = float(a.kept.sum() + b.kept.sum())
    # Count bytes by value and multiply with their numbers of set bits: fast without bitwise_count of NumPy 2.
    shared = float(np.bincount(a.bits & b.bits, minlength=256) @ _ONES)
    return _ratio(shared, total), _ratio(float((a.kept * b.kept / a.sizes).sum()), total)


def _ratio(shared: float, total: float) -> float:
    return shared / (total - shared) if total else 1.0


def _said(row: pd.Series, claim: str = "") -> str:
    pair = f"{row['method_a']} and {row['method_b']}"
    return f"{pair}{claim}: J = {row['jaccard']:.2f}, where chance gives {row['chance']:.2f}"
