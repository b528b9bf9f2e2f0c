"""Figure of accuracy over sparsity: per method a line through the means, 95% intervals, and a light point per seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pbt_bench.analysis.figures import multiples, style
from pbt_bench.analysis.statistics.panel import Panel, counted_accuracy

_HEIGHT = 3.0  # height of one panel, inches
_MOST_SEEDS = 10  # points per cell; a cell with more runs shows the minimum, the quartiles and the maximum
_QUARTILES = np.linspace(0, 1, 5)


def accuracy_figure(panels: Sequence[Panel]) -> Figure:
    """Plot test accuracy in percent over sparsity, one axes for each of `panels` (one dataset and setting).

    A bar is the 95% interval of the mean. A hollow mark is a run that diverged or collapsed, at chance accuracy.
    Methods are shifted sideways so that they do not overlap. Published numbers for the same cells form a thin line with
    a small hollow mark at each mean. Upper bounds measured by the same study are black.
    """
    methods = style.method_order({name for panel in panels for name in (*panel.shown, *panel.bounds)})

    def draw(axes: Axes, panel: Panel) -> None:
        _draw(axes, panel, methods)

    return multiples.multiples(panels, draw, methods, _HEIGHT)


def _draw(axes: Axes, panel: Panel, methods: Sequence[str]) -> None:
    axes.set_title(style.title(panel.title))
    style.sparsity_axis(axes, panel.sparsities, multiples.COLUMN - 1)
    places = style.position(panel.sparsities)
    gap = np.diff(places).min() if len(places) > 1 else 0.3
    axes.set_xlim(places[0] - 0.5 * gap, places[-1] + 0.5 * gap)
    runs = panel.runs.assign(test_accuracy=counted_accuracy(panel.runs)).dropna(subset=["test_accuracy"])
    for method, means in panel.printed_means.items():
        dodge = multiples.dodge(methods.index(str(method)), len(methods), gap)
        multiples.printed_line(axes, str(method), places + dodge, 100 * means.to_numpy())
    seen, table = list(100 * panel.overlay["mean"]), panel.cells.dropna(subset="mean")
    if table.empty and not seen:
        return multiples.nothing(axes, "no run with an accuracy yet")
    if table.empty:
        axes.set_title(style.title(f"{panel.title} (published only)"))
    for i, method in enumerate(methods):
        if method not in table.index:
            continue
        dodge = multiples.dodge(i, len(methods), gap)
        look, cells = style.look(method), table.loc[method]
        x, mean, half = style.position(cells.index) + dodge, 100 * cells["mean"], 100 * cells["half"]
        multiples.line(axes, method, x, mean.to_numpy(), half.to_numpy())
        own = runs[runs["method"] == method]
        done = own["status"] == "done"
        seed, ended = _seeds(axes, own[done], dodge, look.colour), _seeds(axes, own[~done], dodge, look.colour)
        seed.set(marker=".", markeredgewidth=0, alpha=0.45, zorder=2)
        ended.set(marker=look.marker, markerfacecolor="white", markeredgewidth=0.8, zorder=4)
    for name, means in panel.bounds.items():
        dodge = multiples.dodge(methods.index(name), len(methods), gap)
        multiples.line(axes, name, style.position(means.index) + dodge, 100 * means.to_numpy())
        seen += list(100 * means)
    # The limits follow the runs, not the bars: one wide interval would compress all lines.
    values = [*seen, *(100 * runs["test_accuracy"])]
    dense, chance = panel.dense["test_accuracy"].mean(), runs["chance_accuracy"].mean()
    return multiples.accuracies(axes, values, 100 * dense, 100 * chance)


def _seeds(axes: Axes, runs: pd.DataFrame, dodge: float, colour: str) -> Line2D:
    points = _points(runs)
    x = style.position(points.index) + dodge
    return axes.plot(x, 100 * points, color=colour, linestyle="none", markersize=5)[0]


def _points(runs: pd.DataFrame) -> pd.Series:
    """Return the accuracies to draw, indexed by sparsity: every run, or five quantiles of a cell with many runs."""
    cells = runs.groupby("sparsity")["test_accuracy"]
    kept = [pd.Series(own if len(own) <= _MOST_SEEDS else own.quantile(_QUARTILES).to_numpy()) for _, own in cells]
    places = [sparsity for (sparsity, _), own in zip(cells, kept, strict=True) for _ in own]
    values = np.concatenate([own.to_numpy(dtype=float) for own in kept] or [np.empty(0)])
    return pd.Series(values, index=pd.Index(places, dtype="float64"))
