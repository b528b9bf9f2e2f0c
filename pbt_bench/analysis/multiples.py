"""Small panels side by side with one legend of methods below them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from pbt_bench.analysis import style

COLUMN = (3.5, 2.7)  # of one panel, inches: the width of a column of a two-column paper
_COLUMNS = 2
T = TypeVar("T")


def multiples(
    items: Sequence[T],
    draw: Callable[[Axes, T], None],
    methods: Sequence[str],
    size: tuple[float, float] = COLUMN,
    heading: str = "",
) -> Figure:
    """`draw` called with an own axes for every item, two in a row; `methods` are in the legend, in their order."""
    columns = max(1, min(_COLUMNS, len(items)))
    rows = max(1, -(-len(items) // columns))
    width, height = size
    with rc_context(style.RC):
        # The legend takes as many rows below the panels as its longest name asks for.
        entry = max((style.text_inches(style.shortened(method)) for method in methods), default=0) + 0.7
        legend_columns = max(1, min(len(methods), int(width * columns / entry)))
        legend_rows = -(-len(methods) // legend_columns)
        figure = style.new_figure(width * columns, height * rows + 0.25 * legend_rows + (0.3 if heading else 0))
        if heading:
            figure.suptitle(style.title(heading, width * columns), fontsize=10, fontweight="bold")
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, item in zip(grid, items, strict=False):
            draw(axes, item)
        for axes in grid[len(items) :]:
            axes.set_axis_off()
        handles = [_handle(method) for method in methods]
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns)
    return figure


def line(
    axes: Axes, method: str, x: NDArray[np.float64], y: NDArray[np.float64], bar: NDArray[np.float64] | None = None
) -> None:
    """A method's points in its look, joined where neighbours are known; `bar` is half the length of an error bar.

    Values with a bar are accuracies in percent: no bar leaves 0 to 100.
    """
    look = style.look(method)
    axes.plot(x, y, color=look.colour, linestyle=look.dash, marker=look.marker, markersize=4, zorder=3)
    if bar is not None:
        axes.vlines(x, *np.clip([y - bar, y + bar], 0, 100), color=look.colour, linewidth=0.8, zorder=2)


def printed_line(axes: Axes, method: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    """What a paper printed of a method: thin, with hollow marks, broken where it printed nothing."""
    look = style.look(method)
    (drawn,) = axes.plot(x, y, color=look.colour, linestyle=look.dash, marker=look.marker, linewidth=0.7, zorder=2)
    drawn.set(markersize=3.5, markerfacecolor="white", markeredgewidth=0.6)


def at_the_edge(axes: Axes, method: str, x: NDArray[np.float64], y: float) -> None:
    """Hollow marks for values that the axis cannot show, on its edge."""
    if len(x):  # nothing, not clipped, would take all room
        look = style.look(method)
        (marks,) = axes.plot(x, np.full(len(x), y), linestyle="none", marker=look.marker, clip_on=False, zorder=4)
        marks.set(markerfacecolor="white", markeredgecolor=look.colour)


def accuracy_limits(values: Sequence[float], dense: float, chance: float) -> tuple[float, float]:
    """The ends of an axis of accuracies; chance is in sight where a value is nearer to it than to the highest."""
    seen = [*values, *([] if np.isnan(dense) else [dense])]
    if min(seen) - chance < max(seen) - min(seen):
        seen.append(chance)
    margin = 0.05 * (max(seen) - min(seen)) + 0.5
    return min(seen) - margin, max(seen) + margin


def nothing(axes: Axes, why: str) -> None:
    """Say in an empty panel why it is empty."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color="0.4")
    axes.set_xticks([])
    axes.set_yticks([])


def spread(values: Sequence[float], most: int) -> list[float]:
    """At most so many of sorted values, evenly from the first to the last."""
    places = np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)
    return [values[place] for place in places]


def _handle(method: str) -> Line2D:
    look = style.look(method)
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.dash, label=style.shortened(method))
