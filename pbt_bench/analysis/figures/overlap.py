"""Figure of mask overlaps as matrices: measured below the diagonal, by chance above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pbt_bench.analysis.figures import figure, maps, multiples
from pbt_bench.analysis.statistics.jaccard import overlap_sentence
from pbt_bench.analysis.statistics.labels import tick_label
from pbt_bench.analysis.statistics.method_styles import method_order
from pbt_bench.analysis.statistics.panel import Panel

_LEAST, _NARROW, _MOST_WIDE = 0.22, 0.12, 0.3  # inches: smallest cell with and without its value, largest cell
_VALUES_UP_TO = 12  # methods; more would need a row for each map
_LONGEST_NAME = 20  # characters


@figure(
    of="panel",
    section="Do methods keep the same weights?",
    title="Overlap of the masks of all pairs of methods",
    caption="J, the Jaccard index of two masks, is the number of weights that both keep over the number that at least "
    "one keeps. Below the diagonal the measured J, above it that of two independent random masks that keep as many "
    "weights in each layer; mean over the common seeds, for up to four sparsities. Two methods that pick the same "
    "weights are bright below the diagonal and dark above it. Grey means no seed with both masks.",
    order=95,
    needs=lambda panel: len(panel.overlaps.table),
    text=lambda panel: overlap_sentence(panel.overlaps) if panel.recorded else "",
    table=lambda panel: panel.overlaps.table,
    masks=True,
)
def overlap(panel: Panel) -> Figure:
    """Jaccard index of the masks of every two methods, and its value by chance.

    With a and b kept of the n weights of a layer, chance is I / (A + B - I), where A, B and I are the sums over the
    layers of a, b and a b / n. Two empty masks count as 1.
    """
    table = panel.overlaps.table
    methods = method_order({*table["method_a"], *table["method_b"]})
    sparsities = multiples.spread(sorted(table["sparsity"].unique()))
    names = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in methods]

    def draw(axes: Axes, i: int, width: float) -> Any:
        return _draw(axes, matrix(table[table["sparsity"] == sparsities[i]], methods), width >= _LEAST)

    titles = [f"sparsity {tick_label(sparsity)}" for sparsity in sparsities]
    cell = (_LEAST if len(methods) <= _VALUES_UP_TO else _NARROW, _MOST_WIDE, None)
    label = "Jaccard index (below the diagonal: measured   ·   above it: by chance)"
    return maps.grid_of_maps(panel.title, titles, draw, (names, names), cell, label)


def matrix(pairs: pd.DataFrame, methods: Sequence[str]) -> NDArray[np.float64]:
    """Return the array of one sparsity: measured below the diagonal, by chance above it, NaN if missing."""
    index = {method: i for i, method in enumerate(methods)}
    image = np.full((len(methods), len(methods)), np.nan)
    for _, row in pairs.iterrows():
        first, second = index[row["method_a"]], index[row["method_b"]]
        image[second, first], image[first, second] = row["jaccard"], row["chance"]
    return image


def _draw(axes: Axes, image: NDArray[np.float64], values: bool) -> Any:
    shown = np.where(np.eye(len(image), dtype=bool), -1, image)  # the diagonal is white, missing pairs are grey
    texts = np.array(
        [["" if np.isnan(value) or not values else f"{value:.2f}" for value in row] for row in image], "object"
    )
    return maps.heat_map(axes, shown, texts, 6.2, vmin=0, vmax=1)
