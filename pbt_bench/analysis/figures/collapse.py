"""Heat maps of density per layer and sparsity, with empty layers crossed out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from pbt_bench.analysis.figures import style
from pbt_bench.analysis.statistics.panel import Panel

_LEAST, _MOST, _HEIGHT = 0.2, 0.42, 0.15  # smallest and largest width and the height of a cell, inches
_WIDE = 0.33  # inches: the width of "× 2/3"


def collapse_figure(panel: Panel) -> Figure:
    """Plot one heat map per method: rows are layers from input to output, columns are sparsities.

    Colour is the mean density over seeds (log scale). A cross marks a layer that is empty in every seed; "k/n" marks a
    layer that is empty in k of n seeds.
    """
    methods, sparsities = panel.methods, panel.sparsities
    diagnosed = panel.runs[panel.runs["layers"].notna()]
    cells: dict[Hashable, np.ndarray] = {
        key: np.array([layers.densities for layers in rows])
        for key, rows in diagnosed.groupby(["method", "sparsity"])["layers"]
    }
    names = short_names(diagnosed["layers"].iloc[0].names) if cells else []
    means = np.concatenate([densities.mean(axis=0) for densities in cells.values()] or [np.ones(1)])
    norm = LogNorm(means[means > 0].min(initial=0.1), 1)

    beside = 0.85 * max(map(style.text_inches, names), default=0) + 0.3
    across = max(len(sparsities), 4)
    columns, cell = style.maps_in_a_row(len(methods), across, style.PAGE - beside, _LEAST, _MOST)
    rows = -(-len(methods) // columns)
    width = columns * (across * cell + style.MAP_GAP) + beside
    height = rows * (max(len(names), 5) * _HEIGHT + 0.35) + 1.4
    with rc_context(style.RC | {"axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = style.new_figure(width, height)
        figure.suptitle(style.title(panel.title, width), fontsize=9, fontweight="bold")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in list(grid.flat)[len(methods) :]:
            axes.set_axis_off()
        for i, (axes, method) in enumerate(zip(grid.flat, methods, strict=False)):
            axes.set_title(style.shortened(method))
            axes.tick_params(length=0, labelsize=7)
            lowest = i + columns >= len(methods)
            axes.set_xticks(
                range(len(sparsities)) if lowest else [], map(style.tick_label, sparsities) if lowest else []
            )
            axes.tick_params(axis="x", rotation=0 if cell == _MOST else 90)
            axes.set_yticks(range(len(names)) if i % columns == 0 else [], names if i % columns == 0 else [])
            if lowest:
                axes.set_xlabel("sparsity")
            _draw(axes, [cells.get((method, sparsity)) for sparsity in sparsities], norm, cell >= _WIDE)
        if cells:
            mesh = next(axes.images[0] for axes in grid.flat if axes.images)
            plain = FuncFormatter(style.plain)
            figure.colorbar(mesh, ax=grid, label="mean density", format=plain, location="bottom", aspect=40, pad=0.02)
    return figure


def short_names(names: Sequence[str]) -> list[str]:
    """Remove shared leading parts and `.weight` from layer names, and shorten long names in the middle."""
    parts = [name.removesuffix(".weight").split(".") for name in names]
    while min(map(len, parts)) > 1 and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    return [style.shortened(".".join(part)) for part in parts]


def _draw(axes: Axes, columns: Sequence[np.ndarray | None], norm: LogNorm, wide: bool) -> None:
    """Draw one heat map; a column has the densities (seeds, layers) of one sparsity, or None without a diagnosed run.

    Cells that are not `wide` show the number of seeds without the cross.
    """
    known = [densities for densities in columns if densities is not None]
    if not known:
        axes.text(0.5, 0.5, "no run yet", transform=axes.transAxes, ha="center", color="0.4")
        return
    layers = known[0].shape[1]
    image = np.full((layers, len(columns)), np.nan)
    for x, densities in enumerate(columns):
        if densities is None:
            continue
        image[:, x] = densities.mean(axis=0)
        for y, empty in enumerate((densities == 0).sum(axis=0)):
            if empty == len(densities):
                axes.text(x, y, "×", ha="center", va="center_baseline", fontsize=10, fontweight="bold")
            elif empty:
                colour = "black" if norm(image[y, x]) > 0.6 else "white"
                text = f"{'× ' * wide}{empty}/{len(densities)}"
                axes.text(x, y, text, ha="center", va="center_baseline", fontsize=7 if wide else 6, color=colour)
    # Empty layers are white at every scale. A density of 0 has no logarithm and would be drawn grey, as missing data.
    shown = np.where(image == 0, np.finfo(float).tiny, image)
    colours = colormaps["viridis"].with_extremes(bad="0.9", under="white")
    axes.imshow(
        shown, norm=norm, cmap=colours, aspect="auto", interpolation="none"
    )  # the file size of an image hardly depends on the number of cells
    axes.vlines(np.arange(1, len(columns)) - 0.5, -0.5, layers - 0.5, color="0.97", linewidth=0.4)
    axes.hlines(np.arange(1, layers) - 0.5, -0.5, len(columns) - 0.5, color="0.97", linewidth=0.4)
