"""Figure of the density of each layer over depth, from input to output."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from pbt_bench.analysis.figures import figure, multiples, style
from pbt_bench.analysis.statistics.labels import tick_label
from pbt_bench.analysis.statistics.panel import Panel


@figure(
    of="panel",
    section="Where the weights went",
    title="Density by depth",
    caption="The share of weights kept in each layer, mean over seeds, for up to four sparsities. Dotted: the share "
    "over all layers. Hollow marks at the lower edge: no weight left in any seed.",
    order=90,
)
def profiles(panel: Panel) -> Figure:
    """Mean density of every layer from input to output, on a log axis; a line is broken at an empty layer."""
    cells = {cell: densities.mean(axis=0) for cell, densities in panel.densities.items()}
    lowest = min((mean[mean > 0].min(initial=1) for mean in cells.values()), default=0.1) / 2

    def draw(axes: Axes, sparsity: float) -> None:
        axes.set_title(f"sparsity {tick_label(sparsity)}")
        here = {method: cells[method, sparsity] for method in panel.methods if (method, sparsity) in cells}
        if not here:
            return multiples.nothing(axes, "no run yet")
        axes.set_yscale("log")
        axes.axhline(1 - sparsity, color="0.45", linestyle=":", linewidth=1.1, label="all layers")
        for i, (method, mean) in enumerate(here.items()):
            depth = np.arange(1.0, len(mean) + 1)
            multiples.line(axes, method, depth, np.where(mean > 0, mean, np.nan))
            multiples.at_the_edge(axes, method, depth[mean == 0] + multiples.dodge(i, len(here), 1), lowest)
        axes.set_ylim(lowest, 1.3)
        axes.yaxis.set_major_formatter(FuncFormatter(style.plain))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer, from input to output")
        axes.set_ylabel("density")
        return None

    return multiples.stack(multiples.spread(panel.sparsities), draw, panel.methods, multiples.LOW, panel.title)
