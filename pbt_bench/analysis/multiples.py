"""Panels of one column, one below the other, with one legend below them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from pbt_bench.analysis import style

if TYPE_CHECKING:
    from matplotlib.typing import LineStyleType

COLUMN = 3.5  # inches: the width of a column of a two-column paper, and of every figure but the two kinds of maps
HEIGHT = 2.5  # of one panel
LOW = 2.05  # of one panel where there may be four
T = TypeVar("T")

_LEVELS: dict[str, tuple[str, LineStyleType]] = {"dense": ("black", "-"), "chance": ("0.45", ":")}


def multiples(
    items: Sequence[T],
    draw: Callable[[Axes, T], None],
    methods: Sequence[str],
    height: float = HEIGHT,
    heading: str = "",
) -> Figure:
    """`draw` called with an own axes for every item, one below the other.

    The legend has `methods` in their order, then what the axes have a label for.
    """
    with rc_context(style.RC):
        figure = style.new_figure(COLUMN, 1)
        grid = figure.subplots(max(1, len(items)), squeeze=False)[:, 0]
        for axes, item in zip(grid, items, strict=False):
            draw(axes, item)
        if not items:
            grid[0].set_axis_off()
        handles = {style.shortened(method): _handle(method) for method in methods}
        for axes in grid:
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        if "published" in handles:
            handles["published"] = _PUBLISHED
        rows = 0
        if handles:
            columns = _legend_columns(list(handles))
            rows = -(-len(handles) // columns)
            figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns)
        figure.set_size_inches(COLUMN, height * len(grid) + 0.17 * rows + (0.3 if heading else 0) + 0.1)
        if heading:
            figure.suptitle(style.title(heading, COLUMN), fontsize=9, fontweight="bold")
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
    drawn.set(markersize=3.5, markerfacecolor="white", markeredgewidth=0.6, label="published")


def at_the_edge(axes: Axes, method: str, x: NDArray[np.float64], y: float) -> None:
    """Hollow marks for values that the axis cannot show, on its edge."""
    if len(x):  # nothing, not clipped, would take all room
        look = style.look(method)
        (marks,) = axes.plot(x, np.full(len(x), y), linestyle="none", marker=look.marker, clip_on=False, zorder=4)
        marks.set(markerfacecolor="white", markeredgecolor=look.colour)


def accuracies(axes: Axes, values: Sequence[float], dense: float, chance: float) -> None:
    """An axis of accuracies in percent, with lines at dense and chance, and their level, where they are in sight.

    Chance is in sight where a value is nearer to it than to the highest.
    """
    seen = [*values, *([] if np.isnan(dense) else [dense])]
    if min(seen) - chance < max(seen) - min(seen):
        seen.append(chance)
    margin = 0.05 * (max(seen) - min(seen)) + 0.5
    low, high = min(seen) - margin, max(seen) + margin
    axes.set_ylim(low, high)
    axes.set_ylabel("test accuracy (%)")
    for name, level in {"dense": dense, "chance": chance}.items():
        if low < level < high:
            colour, dash = _LEVELS[name]
            axes.axhline(level, color=colour, linestyle=dash, linewidth=1.1, zorder=2, label=name)
            place, text = (1, level), f"{level:.1f}"
            where = ("axes fraction", "data")
            axes.annotate(text, place, (3, 0), where, "offset points", va="center", color=colour, fontsize=7)


def log_axis(axes: Axes) -> None:
    """Ticks of a logarithmic x axis at 1, 2 and 5 of every decade, of many decades at 1.

    The axis shows a factor of 6 or more, so two ticks or more.
    """
    low, high = axes.get_xlim()
    if high < 6 * low:
        middle = (low * high) ** 0.5
        low, high = middle / 6**0.5, middle * 6**0.5
        axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if high < 300 * low else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(style.plain))


def dodge(place: int, count: int, gap: float) -> float:
    """How far the mark of one of `count` methods stands beside its place; they fill most of the gap between places."""
    return 0.7 * gap * ((place + 0.5) / count - 0.5)


def nothing(axes: Axes, why: str) -> None:
    """Say in an empty panel why it is empty."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color="0.4")
    axes.set_xticks([])
    axes.set_yticks([])


def spread(values: Sequence[float], most: int) -> list[float]:
    """At most so many of sorted values, evenly from the first to the last."""
    places = np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)
    return [values[place] for place in places]


_PUBLISHED = Line2D([], [], color="0.3", marker="o", linewidth=0.7, markersize=3.5, markerfacecolor="white")


def _handle(method: str) -> Line2D:
    look = style.look(method)
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.dash)


def _legend_columns(names: Sequence[str]) -> int:
    """As many as fit side by side; a legend is filled column by column."""
    widths = [style.text_inches(name) + 0.5 for name in names]
    for columns in range(len(widths), 1, -1):
        if sum(max(part) for part in np.array_split(widths, columns)) < COLUMN:
            return columns
    return 1
