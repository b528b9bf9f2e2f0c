"""Figures of one column: axes stacked vertically above a common legend."""

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

from pbt_bench.analysis.figures import style
from pbt_bench.analysis.statistics.labels import shortened
from pbt_bench.analysis.statistics.method_styles import method_style
from pbt_bench.analysis.statistics.panel import Panel

if TYPE_CHECKING:
    from matplotlib.typing import LineStyleType

COLUMN = 3.5  # inches: the column width of a two-column paper, and the width of every figure except maps
HEIGHT = 2.5  # height of one axes, inches
LOW = 2.05  # height of one axes in a figure of up to four, inches
T = TypeVar("T")

_LEVELS: dict[str, tuple[str, LineStyleType]] = {"dense": ("black", "-"), "chance": ("0.45", ":")}


def stack(
    items: Sequence[T],
    draw: Callable[[Axes, T], None],
    methods: Sequence[str],
    height: float = HEIGHT,
    heading: str = "",
) -> Figure:
    """Draw each item on its own axes with `draw`, and stack the axes vertically.

    The legend has `methods` in their order, followed by the labels of the axes.
    """
    with rc_context(style.RC):
        figure = style.new_figure(COLUMN, 1)
        grid = figure.subplots(max(1, len(items)), squeeze=False)[:, 0]
        for axes, item in zip(grid, items, strict=False):
            draw(axes, item)
        if not items:
            grid[0].set_axis_off()
        handles = {shortened(method): _handle(method) for method in methods}
        for axes in grid:
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        if "published" in handles:
            handles["published"] = _PUBLISHED_LINE
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
    """Draw a method's points in its style, and join neighbouring known values; `bar` is half an error bar's length.

    Values with a bar are accuracies in percent, so bars are clipped to [0, 100].
    """
    styled = method_style(method)
    axes.plot(x, y, color=styled.colour, linestyle=styled.dash, marker=styled.marker, markersize=4, zorder=3)
    if bar is not None:
        axes.vlines(x, *np.clip([y - bar, y + bar], 0, 100), color=styled.colour, linewidth=0.8, zorder=2)


def printed_line(axes: Axes, method: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    """Draw a method's published numbers as a thin line with hollow marks, broken at missing numbers."""
    styled = method_style(method)
    (drawn,) = axes.plot(
        x, y, color=styled.colour, linestyle=styled.dash, marker=styled.marker, linewidth=0.7, zorder=2
    )
    drawn.set(markersize=3.5, markerfacecolor="white", markeredgewidth=0.6, label="published")


def at_the_edge(axes: Axes, method: str, x: NDArray[np.float64], y: float) -> None:
    """Draw hollow marks on the axis' edge for values that the axis cannot show."""
    if len(x):  # an empty line that is not clipped would distort the layout
        styled = method_style(method)
        (marks,) = axes.plot(x, np.full(len(x), y), linestyle="none", marker=styled.marker, clip_on=False, zorder=4)
        marks.set(markerfacecolor="white", markeredgecolor=styled.colour)


def begin(axes: Axes, panel: Panel, measured: bool, printed: bool, lack: str = "no run with an accuracy yet") -> bool:
    """Write the title of a panel; return False and write `lack` if it has neither measured nor printed numbers."""
    axes.set_title(style.title(panel.title + " (published only)" * (printed and not measured)))
    if not measured and not printed:
        nothing(axes, lack)
    return measured or printed


def accuracy_axis(axes: Axes, panel: Panel, values: Sequence[float]) -> None:
    """Set limits and label of an accuracy axis in percent; draw dense and chance accuracy where they lie within limits.

    The limits include chance accuracy if the lowest value is nearer to it than to the highest value.
    """
    dense, chance = 100 * panel.dense["test_accuracy"].mean(), 100 * panel.runs["chance_accuracy"].mean()
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
            end, units = (1, level), ("axes fraction", "data")
            axes.annotate(f"{level:.1f}", end, (3, 0), units, "offset points", va="center", color=colour, fontsize=7)


def log_axis(axes: Axes) -> None:
    """Set the ticks of a logarithmic x axis to 1, 2 and 5 of every decade, or to 1 over many decades.

    The axis is widened to a factor of 6 or more, so that it has at least two ticks.
    """
    low, high = axes.get_xlim()
    if high < 6 * low:
        middle = (low * high) ** 0.5
        low, high = middle / 6**0.5, middle * 6**0.5
        axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if high < 300 * low else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(style.plain))


def dodge(index: int, count: int, gap: float) -> float:
    """Return the sideways shift of the mark of one of `count` methods; the marks fill 70% of the gap between ticks."""
    return 0.7 * gap * ((index + 0.5) / count - 0.5)


def nothing(axes: Axes, why: str) -> None:
    """Write on empty axes why they are empty."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color="0.4")
    axes.set_xticks([])
    axes.set_yticks([])


def spread(values: Sequence[float], most: int = 4) -> list[float]:
    """Select at most `most` of sorted values, evenly spaced from the first to the last."""
    indices = np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)
    return [values[index] for index in indices]


_PUBLISHED_LINE = Line2D([], [], color="0.3", marker="o", linewidth=0.7, markersize=3.5, markerfacecolor="white")


def _handle(method: str) -> Line2D:
    styled = method_style(method)
    return Line2D([], [], color=styled.colour, marker=styled.marker, linestyle=styled.dash)


def _legend_columns(names: Sequence[str]) -> int:
    """Return the largest number of legend columns that fits the figure; a legend is filled column by column."""
    widths = [style.text_inches(name) + 0.5 for name in names]
    for columns in range(len(widths), 1, -1):
        if sum(max(part) for part in np.array_split(widths, columns)) < COLUMN:
            return columns
    return 1
