"""Figures of a page's width: a grid of maps with common labels and one colour bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from pbt_bench.analysis.figures import multiples, style

_GAP = 0.2  # inches between two maps
_LIGHT = 0.408  # relative luminance above which seaborn writes in dark grey
COLOURS = colormaps["viridis"].with_extremes(bad="0.9", under="white")  # missing values are grey


def grid_of_maps(
    heading: str,
    titles: Sequence[str],
    draw: Callable[[Axes, int, float], Any],
    labels: tuple[Sequence[str], Sequence[str]],
    cell: tuple[float, float, float | None],
    colour_label: str,
) -> Figure:
    """Draw maps in rows of at most three: `draw(axes, i, width of a cell)` returns its mesh, or None.

    `labels` are the ticks of all x axes and of all y axes, shown below the lowest and beside the first maps. `cell` has
    the smallest and the largest width of a cell, and its height, or None for that of the width, in inches. There are as
    few rows as cells that are not too narrow allow, with equal numbers of maps where possible: four maps are 2 + 2.
    """
    beside, below = (0.85 * max(map(style.text_inches, names), default=0) for names in reversed(labels))
    across, free = max(len(labels[0]), 4), multiples.PAGE - beside - 0.3
    least, most, height = cell
    fitting = (count for count in range(min(3, len(titles)), 1, -1) if (free / count - _GAP) / across >= least)
    rows = max(1, -(-len(titles) // next(fitting, 1)))
    columns = max(1, -(-len(titles) // rows))
    width = min(most, (free / columns - _GAP) / across)
    upright = below > width
    inches = rows * (max(len(labels[1]), 4) * (height or width) + 0.35) + 1.2
    # If the last row is not full, the row above it has labels too.
    inches += (below if upright else 0.2) * (1 + (rows * columns > len(titles)))
    size = max(columns * (across * width + _GAP) + beside + 0.3, 4), inches
    with rc_context(style.RC | {"axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = style.new_figure(*size)
        figure.suptitle(style.title(heading, size[0]), fontsize=9, fontweight="bold")
        figure.set_layout_engine("none")
        figure.set_dpi(10)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_visible(False)  # seaborn draws the figure for every map: 6 s for ten maps, invisible ones 0.1 s
        drawn = None
        for i, (axes, title) in enumerate(zip(grid.flat, titles, strict=False)):
            axes.set_title(title)
            axes.tick_params(length=0, labelsize=7)
            x, y = labels[0] if i + columns >= len(titles) else [], labels[1] if i % columns == 0 else []
            drawn = draw(axes, i, width) or drawn
            axes.set_xticks(np.arange(len(x)) + 0.5, x, rotation=90 if upright else 0)
            axes.set_yticks(np.arange(len(y)) + 0.5, y)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_label_coords(0, 0)  # skip measuring all ticks for the position of an empty label
        for axes in list(grid.flat)[: len(titles)]:
            axes.set_visible(True)
        figure.set_dpi(100)
        figure.set_layout_engine("constrained")
        if drawn:
            plain = FuncFormatter(style.plain)
            figure.colorbar(drawn, ax=grid, label=colour_label, format=plain, location="bottom", aspect=40, pad=0.02)
    return figure


def heat_map(axes: Axes, image: NDArray[np.float64], texts: NDArray[np.object_], points: float, **options: Any) -> Any:
    """Draw an array with a text on every cell that has one, and return the mesh; NaN is grey."""
    # seaborn's own texts would be one per cell, empty ones too: half of the time of a page of maps.
    sns.heatmap(
        image,
        cmap=COLOURS,
        linewidths=0.4,
        linecolor="white",
        cbar=False,
        xticklabels=False,
        yticklabels=False,
        rasterized=True,  # the size of an image hardly depends on the number of cells
        ax=axes,
        **options,
    )
    mesh = axes.collections[0]
    for y, x in np.argwhere(texts != ""):
        light = sns.utils.relative_luminance(mesh.cmap(mesh.norm(image[y, x]))) > _LIGHT
        colour = style.ON_LIGHT if light else style.ON_DARK
        text = axes.text(x + 0.5, y + 0.5, texts[y, x], ha="center", va="center", fontsize=points, color=colour)
        text.set_in_layout(False)  # the text lies inside its cell; measuring hundreds of texts is slow
    return mesh
