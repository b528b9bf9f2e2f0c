"""Figures of a page's width: a grid of maps with common labels and one colour bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from pbt_bench.analysis.figures import style

_PAGE = 7.0  # inches: the text width of a page
_GAP = 0.2  # inches between two maps
COLOURS = colormaps["viridis"].with_extremes(bad="0.9", under="white")  # missing values are grey


def grid_of_maps(
    heading: str,
    titles: Sequence[str],
    draw: Callable[[Axes, int, float], Any],
    labels: tuple[Sequence[str], Sequence[str]],
    cell: tuple[float, float, float | None],
    colour_label: str,
) -> Figure:
    """Draw maps in rows of at most three: `draw(axes, i, width of a cell)` returns its image or mesh, or None.

    `labels` are the ticks of all x axes and of all y axes, shown below the lowest and beside the first maps. `cell` has
    the smallest and the largest width of a cell, and its height, or None for that of the width, in inches. A row has
    the largest number of maps whose cells are not too narrow.
    """
    beside, below = (0.85 * max(map(style.text_inches, names), default=0) for names in reversed(labels))
    across, free = max(len(labels[0]), 4), _PAGE - beside - 0.3
    least, most, height = cell
    fitting = (count for count in range(min(3, len(titles)), 1, -1) if (free / count - _GAP) / across >= least)
    columns = next(fitting, 1)
    width = min(most, (free / columns - _GAP) / across)
    rows = max(1, -(-len(titles) // columns))
    upright = below > width
    inches = rows * (max(len(labels[1]), 4) * (height or width) + 0.35) + 1.2
    # If the last row is not full, the row above it has labels too.
    inches += (below if upright else 0.2) * (1 + (rows * columns > len(titles)))
    size = max(columns * (across * width + _GAP) + beside + 0.3, 4), inches
    with rc_context(style.RC | {"axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = style.new_figure(*size)
        figure.suptitle(style.title(heading, size[0]), fontsize=9, fontweight="bold")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in list(grid.flat)[len(titles) :]:
            axes.set_axis_off()
        drawn = None
        for i, (axes, title) in enumerate(zip(grid.flat, titles, strict=False)):
            axes.set_title(title)
            axes.tick_params(length=0, labelsize=7)
            x, y = labels[0] if i + columns >= len(titles) else [], labels[1] if i % columns == 0 else []
            axes.set_xticks(range(len(x)), x, rotation=90 if upright else 0)
            axes.set_yticks(range(len(y)), y)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_label_coords(0, 0)  # skip measuring all ticks for the position of an empty label
            drawn = draw(axes, i, width) or drawn
        if drawn:
            plain = FuncFormatter(style.plain)
            figure.colorbar(drawn, ax=grid, label=colour_label, format=plain, location="bottom", aspect=40, pad=0.02)
    return figure
