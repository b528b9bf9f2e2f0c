"""Figure of the density of each layer over depth, from input to output."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from pbt_bench.analysis.figures import multiples, style
from pbt_bench.analysis.statistics.panel import Panel

_MOST = 4  # sparsities shown


def profile_figure(panel: Panel) -> Figure:
    """Plot the mean density of every layer over seeds for up to four sparsities, each on its own axes.

    Each method has a line; the density axis is logarithmic. A layer that is empty in every seed has a hollow mark at
    the lower edge, and the line is broken at this layer.
    """
    diagnosed = panel.runs[panel.runs["layers"].notna()]
    cells = {
        key: np.mean([layers.densities for layers in rows], axis=0)
        for key, rows in diagnosed.groupby(["method", "sparsity"])["layers"]
    }
    lowest = min((mean[mean > 0].min(initial=1) for mean in cells.values()), default=0.1) / 2

    def draw(axes: Axes, sparsity: float) -> None:
        axes.set_title(f"sparsity {style.tick_label(sparsity)}")
        here = {method: cells[method, sparsity] for method in panel.methods if (method, sparsity) in cells}
        if not here:
            return multiples.nothing(axes, "no run yet")
        axes.set_yscale("log")
        axes.axhline(1 - sparsity, color="0.45", linestyle=":", linewidth=1.1, label="all layers")
        for i, (method, mean) in enumerate(here.items()):
            place = np.arange(1.0, len(mean) + 1)
            multiples.line(axes, method, place, np.where(mean > 0, mean, np.nan))
            multiples.at_the_edge(axes, method, place[mean == 0] + multiples.dodge(i, len(here), 1), lowest)
        axes.set_ylim(lowest, 1.3)
        axes.yaxis.set_major_formatter(FuncFormatter(style.plain))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer, from input to output")
        axes.set_ylabel("density")
        return None

    return multiples.multiples(
        multiples.spread(panel.sparsities, _MOST), draw, panel.methods, multiples.LOW, panel.title
    )
