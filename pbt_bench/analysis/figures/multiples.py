"""Figures of several axes above a common legend, and what is drawn on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray
from scipy.special import stdtrit

from pbt_bench.analysis.figures import style
from pbt_bench.analysis.statistics.labels import shortened
from pbt_bench.analysis.statistics.method_styles import method_style
from pbt_bench.analysis.statistics.panel import ENDED, Panel

if TYPE_CHECKING:
    from matplotlib.typing import LineStyleType

COLUMN = 3.5  # inches: the column width of a two-column paper, and the width of a figure with one item
PAGE = 7.0  # inches: the text width of a page, and the width of a figure with several items
HEIGHT = 2.5  # height of one axes, inches
LOW = 2.05  # height of one axes in a figure of up to four, inches
_DODGED = 0.3  # share of the gap between two ticks that the bars of all methods fill
T = TypeVar("T")

_LEVELS: dict[str, tuple[str, LineStyleType]] = {"dense": ("black", "-"), "chance": ("0.45", ":")}


def facets(
    items: Sequence[T],
    draw: Callable[..., None],
    methods: Sequence[str],
    heights: Sequence[float] = (HEIGHT,),
    heading: str = "",
    columns: int = 2,
    width: float | None = None,
    below: float = 0.0,
) -> Figure:
    """Draw each item on its own axes with `draw(axes, item)`, in rows of at most `columns`, above a common legend.

    An item has as many axes, one below the other, as `heights` has numbers: `draw(upper, lower, item)`. The legend has
    `methods` in their order, followed by the labels of the axes. `below` inches are added for the labels of ticks.
    """
    columns = max(1, min(columns, len(items)))
    width = width or (PAGE if columns > 1 else COLUMN)
    rows, axes_per_item = max(1, -(-len(items) // columns)), len(heights)
    with rc_context(style.RC):
        figure = style.new_figure(width, 1)
        grid = figure.subplots(rows * axes_per_item, columns, squeeze=False, height_ratios=[*heights] * rows)
        for i in range(rows * columns):
            own = grid[i // columns * axes_per_item :, i % columns][:axes_per_item]
            if i < len(items):
                draw(*own, items[i])
            else:
                for axes in own:
                    axes.remove()
        handles = {shortened(method): _handle(method) for method in methods}
        for axes in figure.axes:
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        if "published" in handles:
            handles["published"] = _PUBLISHED_LINE
        lines = 0
        if handles:
            wide = _legend_columns(list(handles), width)
            lines = -(-len(handles) // wide)
            figure.legend(handles.values(), handles, loc="outside lower center", ncols=wide)
        height = rows * sum(heights) + 0.17 * lines + (0.3 if heading else 0) + 0.1 + below
        figure.set_size_inches(width, height)
        if heading:
            figure.suptitle(style.title(heading, width), fontsize=9, fontweight="bold")
    return figure


def line(
    axes: Axes,
    method: str,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    half: NDArray[np.float64] | None = None,
    bars: NDArray[np.float64] | None = None,
    limits: tuple[float, float] = (0, 100),
) -> Line2D:
    """Draw a method's points in its style, and join neighbouring known values.

    `half` is half the length of the error bars, which are cut at `limits`: by default those of an accuracy in percent.
    `bars` are their positions, by default those of the points.
    """
    styled = method_style(method)
    (drawn,) = axes.plot(x, y, color=styled.colour, linestyle=styled.dash, marker=styled.marker, zorder=3)
    if half is not None:
        at = x if bars is None else bars
        axes.vlines(
            at, *np.clip([y - half, y + half], *limits), color=styled.colour, linewidth=0.8, alpha=0.8, zorder=2
        )
    return drawn


def by_method(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split the result of `summarise`: a table by sparsity for each method, with `mean` and `half` in percent.

    `ended` is True if all runs of a cell diverged or collapsed.
    """
    percent = 100 * table[["mean", "half"]]
    percent["ended"] = table[list(ENDED)].sum(axis=1) == table["n"]
    return {str(method): cells.droplevel("method") for method, cells in percent.groupby(level="method")}


def means(
    axes: Axes,
    method: str,
    cells: pd.DataFrame,
    x: NDArray[np.float64],
    bars: NDArray[np.float64] | None = None,
    limits: tuple[float, float] = (0, 100),
) -> None:
    """Draw the `cells` of a method from `by_method` with their bars; a mark whose runs all ended early is hollow."""
    mean, hollow, styled = cells["mean"].to_numpy(), cells["ended"].to_numpy(), method_style(method)
    line(axes, method, x, mean, cells["half"].to_numpy(), bars, limits)
    if hollow.any():
        (marks,) = axes.plot(x[hollow], mean[hollow], color=styled.colour, linestyle="none", marker=styled.marker)
        marks.set(markerfacecolor="white", markeredgewidth=0.8, zorder=4)


def interval(values: pd.Series) -> tuple[float, float]:
    """Compute the 95% Student t interval of a mean accuracy in percent, cut at 0 and 100; NaN below two values."""
    known = values.to_numpy()  # five times faster than pandas
    n, mean = len(known), float(known.mean())
    half = float(stdtrit(n - 1, 0.975) * known.std(ddof=1) / n**0.5) if n > 1 else np.nan
    return max(mean - half, 0), min(mean + half, 100)


def lines(axes: Axes, table: pd.DataFrame, methods: Sequence[str], x: str, markers: bool = True, **style: Any) -> None:
    """Draw the mean of `accuracy` at each value of the column `x` for each `method`, with its interval as a band."""
    if table.empty:  # seaborn warns of colours for nothing
        return
    styles = {method: method_style(method) for method in methods}
    sns.lineplot(
        table,
        x=x,
        y="accuracy",
        hue="method",
        style="method",
        hue_order=methods,
        style_order=methods,
        palette={method: styled.colour for method, styled in styles.items()},
        dashes={method: "" if styled.dash == "-" else styled.dash[1] for method, styled in styles.items()},
        markers={method: styled.marker for method, styled in styles.items()} if markers else False,
        errorbar=interval,
        markeredgecolor="auto",
        err_kws={"alpha": 0.12, "linewidth": 0},
        legend=False,
        ax=axes,
        **style,
    )


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


def dodge(index: int, count: int, gap: float, share: float = _DODGED) -> float:
    """Return the sideways shift of one of `count` methods; all together fill a share of the gap between two ticks."""
    return share * gap * ((index + 0.5) / count - 0.5)


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


def _legend_columns(names: Sequence[str], width: float) -> int:
    """Return the largest number of legend columns that fits the figure; a legend is filled column by column."""
    widths = [style.text_inches(name) + 0.5 for name in names]
    for columns in range(len(widths), 1, -1):
        if sum(max(part) for part in np.array_split(widths, columns)) < width:
            return -(-len(widths) // -(-len(widths) // columns))  # rows of equal length
    return 1
