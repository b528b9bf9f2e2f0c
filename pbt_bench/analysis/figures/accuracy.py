"""Figure of accuracy over sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray

from pbt_bench.analysis.figures import figure, multiples, style
from pbt_bench.analysis.statistics.method_styles import method_order, method_style
from pbt_bench.analysis.statistics.panel import Panel, counted_accuracy, summarise

_HEIGHTS = 2.4, 1.8  # of the axes of accuracy and of differences, inches
_MOST_SHOWN = 10  # points per cell; a cell with more runs shows the minimum, the quartiles and the maximum
_QUARTILES = np.linspace(0, 1, 5)
_LINEAR_POINTS = 1.0  # differences up to this one are on a linear scale, larger ones on a logarithmic scale
_TICKS = np.array([1, 2, 5, 10, 20, 50])


@figure(
    of="dataset",
    section="Accuracy against sparsity",
    caption="A line joins the means over seeds. In every figure of this page a bar or a band is the 95% interval of a "
    "mean (Student t). Bars stand side by side, a little beside their sparsity, so that none hides another. A light "
    "point is a seed (of more than ten the lowest, the quartiles and the highest), a hollow mark a run that diverged "
    "or collapsed, or the mean of such runs alone. Black lines with marks, in a study that has them, are upper bounds: "
    "the network pruned after its training, then trained on or rewound to the initial weights (a lottery ticket). "
    "Below: the difference to the dense network of the same seed. Beyond one point its axis is logarithmic, so that "
    "sparsities that cost little can be read beside those that cost all.",
    order=20,
    needs=lambda panel: panel.has_accuracy,
    paper=True,
)
def accuracy(panels: Sequence[Panel]) -> Figure:
    """Test accuracy in percent over sparsity, spaced by log density, and its difference to the dense network.

    Each model has its own axes. A seed without a dense network has no difference.
    """
    methods = method_order({name for panel in panels for name in (*panel.shown, *panel.bounds)})
    compared = any(panel.has_accuracy and panel.dense["test_accuracy"].notna().any() for panel in panels)
    if compared:
        return multiples.facets(panels, partial(_both, methods=methods), methods, _HEIGHTS)
    return multiples.facets(panels, partial(_accuracies, methods=methods), methods, _HEIGHTS[:1])


def _both(upper: Axes, lower: Axes, panel: Panel, methods: Sequence[str]) -> None:
    _accuracies(upper, panel, methods)
    _differences(lower, panel, methods)
    upper.set_xlabel("")
    upper.tick_params(axis="x", labelbottom=False)


def _accuracies(axes: Axes, panel: Panel, methods: Sequence[str]) -> None:
    ticks, shifts = _positions(axes, panel, methods)
    runs = panel.runs.assign(test_accuracy=counted_accuracy(panel.runs)).dropna(subset=["test_accuracy"])
    for method, means in panel.printed_means.items():
        multiples.printed_line(axes, str(method), ticks, 100 * means.to_numpy())
    seen, table = list(100 * panel.overlay["mean"]), panel.cells.dropna(subset="mean")
    if not multiples.begin(axes, panel, not table.empty, bool(seen)):
        return
    for method, cells in multiples.by_method(table).items():
        x = style.position(cells.index)
        multiples.means(axes, method, cells, x, x + shifts[method])
        styled, own = method_style(method), runs[runs["method"] == method]
        done = own["status"] == "done"
        mixed = ~done & ~own["sparsity"].isin(cells.index[cells["ended"]])  # other means are hollow marks themselves
        seed, hollow = (_seeds(axes, own[chosen], shifts[method], styled.colour) for chosen in (done, mixed))
        seed.set(marker=".", markersize=4, markeredgewidth=0, alpha=0.45, zorder=2)
        hollow.set(marker=styled.marker, markersize=4, markerfacecolor="white", markeredgewidth=0.8, zorder=4)
    for name, means in panel.bounds.items():
        multiples.line(axes, name, style.position(means.index), 100 * means.to_numpy())
        seen += list(100 * means)
    # The limits follow the runs, not the bars: one wide interval would compress all lines.
    multiples.accuracy_axis(axes, panel, [*seen, *(100 * runs["test_accuracy"])])


def _differences(axes: Axes, panel: Panel, methods: Sequence[str]) -> None:
    """Draw the differences to the dense network in percentage points."""
    _, shifts = _positions(axes, panel, methods)
    dense = panel.dense.dropna(subset="test_accuracy").groupby("seed")["test_accuracy"].mean()
    table = summarise(panel.runs, counted_accuracy(panel.runs) - panel.runs["seed"].map(dense)).dropna(subset="mean")
    if table.empty:
        return multiples.nothing(axes, "no pair with a dense run yet")
    for method, cells in multiples.by_method(table).items():
        x = style.position(cells.index)
        multiples.means(axes, method, cells, x, x + shifts[method], (-100, 100))
    bounds = {name: 100 * (means - dense.mean()) for name, means in panel.bounds.items()}
    for name, means in bounds.items():
        multiples.line(axes, name, style.position(means.index), means.to_numpy())
    axes.axhline(0, color="black", linewidth=1.1, zorder=2)
    seen = [*(100 * table["mean"]), *(value for means in bounds.values() for value in means), 0.0]
    if max(map(abs, seen)) > 2 * _LINEAR_POINTS:
        axes.set_yscale("symlog", linthresh=_LINEAR_POINTS, linscale=0.6)
        axes.set_yticks([*-_TICKS[::-1], 0, *_TICKS])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(1.25 * min(*seen, -_LINEAR_POINTS), 1.25 * max(*seen, 0.4 * _LINEAR_POINTS))
    axes.set_ylabel("difference to dense\n(points)")
    return None


def _positions(axes: Axes, panel: Panel, methods: Sequence[str]) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Return the positions of the sparsities, and the sideways shift of the bars of each method."""
    style.sparsity_axis(axes, panel.sparsities, multiples.COLUMN - 1)
    ticks = style.position(panel.sparsities)
    gap = style.smallest_gap(ticks)
    axes.set_xlim(ticks[0] - 0.5 * gap, ticks[-1] + 0.5 * gap)
    return ticks, {method: multiples.dodge(i, len(methods), gap) for i, method in enumerate(methods)}


def _seeds(axes: Axes, runs: pd.DataFrame, dodge: float, colour: str) -> Line2D:
    """Draw the accuracy of every run, or five quantiles of a cell with many runs."""
    cells = [(sparsity, own) for sparsity, own in runs.groupby("sparsity")["test_accuracy"]]
    cells = [(at, own if len(own) <= _MOST_SHOWN else own.quantile(_QUARTILES)) for at, own in cells]
    points = np.array([(at, accuracy) for at, own in cells for accuracy in own]).reshape(-1, 2)
    x, y = style.position(points[:, 0]) + dodge, 100 * points[:, 1]
    return axes.plot(x, y, color=colour, linestyle="none")[0]
