"""Figure of accuracy over sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pbt_bench.analysis.figures import figure, multiples, style
from pbt_bench.analysis.statistics.method_styles import method_order, method_style
from pbt_bench.analysis.statistics.panel import Panel, counted_accuracy

_PANEL_HEIGHT = 3.0  # height of one panel, inches
_MOST_SEEDS = 10  # points per cell; a cell with more runs shows the minimum, the quartiles and the maximum
_QUARTILES = np.linspace(0, 1, 5)


@figure(
    of="dataset",
    section="Accuracy against sparsity",
    caption="A line joins the means over seeds; a bar is the 95% interval of the mean (Student t), cut at 0 and 100. "
    "A light point is a seed (of more than ten the lowest, the quartiles and the highest), a hollow mark a run that "
    "diverged or collapsed. Black lines with marks, in a study that has them, are upper bounds: the network pruned "
    "after its training, then trained on or rewound to the initial weights (a lottery ticket). Methods are shifted "
    "sideways so that none hides another.",
    order=20,
    needs=lambda panel: panel.has_accuracy,
    paper=True,
)
def accuracy(panels: Sequence[Panel]) -> Figure:
    """Test accuracy in percent over sparsity, spaced by log density, with axes for each model."""
    methods = method_order({name for panel in panels for name in (*panel.shown, *panel.bounds)})
    return multiples.stack(panels, partial(_draw, methods=methods), methods, _PANEL_HEIGHT)


def _draw(axes: Axes, panel: Panel, methods: Sequence[str]) -> None:
    style.sparsity_axis(axes, panel.sparsities, multiples.COLUMN - 1)
    ticks = style.position(panel.sparsities)
    gap = style.smallest_gap(ticks)
    axes.set_xlim(ticks[0] - 0.5 * gap, ticks[-1] + 0.5 * gap)
    runs = panel.runs.assign(test_accuracy=counted_accuracy(panel.runs)).dropna(subset=["test_accuracy"])
    for method, means in panel.printed_means.items():
        dodge = multiples.dodge(methods.index(str(method)), len(methods), gap)
        multiples.printed_line(axes, str(method), ticks + dodge, 100 * means.to_numpy())
    seen, table = list(100 * panel.overlay["mean"]), panel.cells.dropna(subset="mean")
    if not multiples.begin(axes, panel, not table.empty, bool(seen)):
        return
    for i, method in enumerate(methods):
        if method not in table.index:
            continue
        dodge = multiples.dodge(i, len(methods), gap)
        styled, cells = method_style(method), table.loc[method]
        x, mean, half = style.position(cells.index) + dodge, 100 * cells["mean"], 100 * cells["half"]
        multiples.line(axes, method, x, mean.to_numpy(), half.to_numpy())
        own = runs[runs["method"] == method]
        done = own["status"] == "done"
        seed, ended = _seeds(axes, own[done], dodge, styled.colour), _seeds(axes, own[~done], dodge, styled.colour)
        seed.set(marker=".", markeredgewidth=0, alpha=0.45, zorder=2)
        ended.set(marker=styled.marker, markerfacecolor="white", markeredgewidth=0.8, zorder=4)
    for name, means in panel.bounds.items():
        dodge = multiples.dodge(methods.index(name), len(methods), gap)
        multiples.line(axes, name, style.position(means.index) + dodge, 100 * means.to_numpy())
        seen += list(100 * means)
    # The limits follow the runs, not the bars: one wide interval would compress all lines.
    multiples.accuracy_axis(axes, panel, [*seen, *(100 * runs["test_accuracy"])])


def _seeds(axes: Axes, runs: pd.DataFrame, dodge: float, colour: str) -> Line2D:
    """Draw the accuracy of every run, or five quantiles of a cell with many runs."""
    cells = [(sparsity, own) for sparsity, own in runs.groupby("sparsity")["test_accuracy"]]
    cells = [(at, own if len(own) <= _MOST_SEEDS else own.quantile(_QUARTILES)) for at, own in cells]
    points = np.array([(at, accuracy) for at, own in cells for accuracy in own]).reshape(-1, 2)
    x, y = style.position(points[:, 0]) + dodge, 100 * points[:, 1]
    return axes.plot(x, y, color=colour, linestyle="none", markersize=5)[0]
