"""Figures of a page's width: a grid of maps with common labels and one colour bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from pbt_bench.analysis.figures import style

PAGE = 7.0  # inches: the text width of a page
GAP = 0.2  # inches between two maps
COLOURS = colormaps["viridis"].with_extremes(bad="0.9", under="white")  # missing values are grey


def maps_in_a_row(maps: int, cells: int, width: float, least: float, most: float) -> tuple[int, float]:
    """Compute the number of maps in a row `width` inches wide, and the width of a cell.

    `maps` is the total number of maps, each `cells` wide. A row has at most three maps, and the largest number whose
    cells are at least `least` inches wide. A cell is at most `most` inches wide.
    """
    fitting = (count for count in range(min(3, maps), 1, -1) if (width / count - GAP) / cells >= least)
    count = next(fitting, 1)
    return count, min(most, (width / count - GAP) / cells)


def grid_of_maps(
    heading: str,
    titles: Sequence[str],
    draw: Callable[[Axes, int], Any],
    labels: tuple[Sequence[str], Sequence[str]],
    columns: int,
    size: tuple[float, float],
    colour_label: str,
    upright: bool = True,
) -> Figure:
    """Draw map number i on its axes with `draw`, which returns its image or mesh, or None without data.

    `labels` are the ticks of all x axes and of all y axes. They are shown below the lowest and beside the first maps,
    and those of the x axes are `upright` or horizontal. `size` is in inches.
    """
    with rc_context(style.RC | {"axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = style.new_figure(*size)
        figure.suptitle(style.title(heading, size[0]), fontsize=9, fontweight="bold")
        grid = figure.subplots(max(1, -(-len(titles) // columns)), columns, squeeze=False)
        for axes in list(grid.flat)[len(titles) :]:
            axes.set_axis_off()
        drawn = None
        for i, (axes, title) in enumerate(zip(grid.flat, titles, strict=False)):
            axes.set_title(title)
            axes.tick_params(length=0, labelsize=7)
            x, y = labels[0] if i + columns >= len(titles) else [], labels[1] if i % columns == 0 else []
            axes.set_xticks(range(len(x)), x, rotation=90 if upright else 0)
            axes.set_yticks(range(len(y)), y)
            drawn = draw(axes, i) or drawn
        if drawn:
            plain = FuncFormatter(style.plain)
            figure.colorbar(drawn, ax=grid, label=colour_label, format=plain, location="bottom", aspect=40, pad=0.02)
    return figure
