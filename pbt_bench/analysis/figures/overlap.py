"""Figure of mask overlaps as matrices: measured below the diagonal, by chance above it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import style
from pbt_bench.analysis.statistics.jaccard import Overlaps
from pbt_bench.analysis.statistics.panel import Panel

_LEAST, _NARROW, _MOST_WIDE = 0.22, 0.12, 0.3  # inches: smallest cell with and without its value, largest cell
_VALUES_UP_TO = 12  # methods; the values of more would be too small to read
_MOST = 4  # matrices
_LONGEST_NAME = 20  # characters


def overlap_figure(panel: Panel, found: Overlaps) -> Figure:
    """Plot a matrix of methods for each of at most 4 sparsities, including the highest.

    Colour and number are the mean Jaccard index over seeds: measured below the diagonal, by chance above it. In a
    symmetric matrix, masks overlap as much as by chance. Grey means that no seed has both masks.
    """
    methods = style.method_order({*found.table["method_a"], *found.table["method_b"]})
    sparsities = spread(sorted(found.table["sparsity"].unique()), _MOST)
    values = len(methods) <= _VALUES_UP_TO
    labels = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in methods]
    names = 0.85 * max(map(style.text_inches, labels), default=0)
    across, least = max(len(methods), 4), _LEAST if values else _NARROW
    columns, cell = style.maps_in_a_row(len(sparsities), across, style.PAGE - names - 0.2, least, _MOST_WIDE)
    side = across * cell + style.MAP_GAP
    rows = max(1, -(-len(sparsities) // columns))
    width = max(columns * side + names + 0.2, 4)
    # If the last row of matrices is not full, the row above it has method names too.
    height = rows * (side + 0.1) + names * (1 + (rows * columns > len(sparsities))) + 1.2
    with rc_context(style.RC | {"axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = style.new_figure(width, height)
        figure.suptitle(style.title(panel.title, width), fontsize=9, fontweight="bold")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in list(grid.flat)[len(sparsities) :]:
            axes.set_axis_off()
        for i, (axes, sparsity) in enumerate(zip(grid.flat, sparsities, strict=False)):
            axes.set_title(f"sparsity {style.tick_label(sparsity)}")
            axes.tick_params(length=0, labelsize=7)
            places = range(len(methods))
            axes.set_xticks(*((places, labels) if i + columns >= len(sparsities) else ([],)))
            axes.set_yticks(*((places, labels) if i % columns == 0 else ([],)))
            axes.tick_params(axis="x", rotation=90)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_label_coords(0, 0)  # skip measuring all ticks for the position of an empty label
            _draw(axes, matrix(found.table[found.table["sparsity"] == sparsity], methods), values)
        figure.supxlabel("below the diagonal: measured   ·   above it: by chance", fontsize=8)
        if sparsities:
            mesh = grid[0, 0].collections[0]
            figure.colorbar(mesh, ax=grid, label="Jaccard index", location="bottom", aspect=40, shrink=0.7, pad=0.02)
    return figure


def matrix(pairs: pd.DataFrame, methods: Sequence[str]) -> np.ndarray:
    """Return the array of one sparsity: measured below the diagonal, by chance above it, NaN if missing."""
    place = {method: i for i, method in enumerate(methods)}
    image = np.full((len(methods), len(methods)), np.nan)
    for _, row in pairs.iterrows():
        first, second = place[row["method_a"]], place[row["method_b"]]
        image[second, first], image[first, second] = row["jaccard"], row["chance"]
    return image


def spread(values: Sequence[float], most: int) -> list[float]:
    """Select at most `most` of the values, evenly spaced, including the first and the last."""
    places = np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)
    return [values[place] for place in places]


def _draw(axes: Axes, image: np.ndarray, values: bool) -> None:
    # seaborn's heatmap draws the same but computes the whole layout for every matrix: two seconds per page.
    places = np.arange(len(image))
    colours = colormaps["viridis"].with_extremes(bad="0.9", under="white")
    shown = np.where(np.eye(len(image), dtype=bool), -1, image)  # the diagonal is white, missing pairs are grey
    axes.pcolormesh(places, places, shown, vmin=0, vmax=1, cmap=colours, ec="white", lw=0.4)
    axes.set_ylim(len(image) - 0.5, -0.5)
    if values:
        for (y, x), value in np.ndenumerate(image):
            if not np.isnan(value):
                colour = "black" if value > 0.6 else "white"
                text = axes.text(x, y, f"{value:.2f}", ha="center", va="center_baseline", fontsize=6.2, color=colour)
                text.set_in_layout(False)  # the text lies inside its cell; measuring hundreds of texts is slow
