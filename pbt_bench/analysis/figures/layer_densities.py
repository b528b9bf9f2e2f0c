"""Figure of the density of each layer, from input to output."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from pbt_bench.analysis.figures import figure, multiples, style
from pbt_bench.analysis.statistics.labels import is_shortcut, layer_labels, tick_label
from pbt_bench.analysis.statistics.panel import Panel

_ROTATED = 0.11  # inches: the width of a name


@figure(
    of="panel",
    section="Where the weights went",
    title="Density by layer",
    caption="The share of weights kept in each layer from input to output, mean over seeds, for up to four sparsities. "
    "Marks of layers on shortcuts, which are parallel to others, are not joined. Dotted: the share over all layers. "
    "Hollow marks at the lower edge: no weight left in any seed.",
    order=90,
)
def profiles(panel: Panel) -> Figure:
    """Mean density of every layer from input to output, on a log axis; a line is broken at an empty layer.

    A layer is on a shortcut if its name has “shortcut” or “downsample”.
    """
    cells = {cell: densities.mean(axis=0) for cell, densities in panel.densities.items()}
    lowest = min((mean[mean > 0].min(initial=1) for mean in cells.values()), default=0.1) / 2
    names = layer_labels(panel.diagnosed["layers"].iloc[0].names) if cells else []
    parallel = np.array([is_shortcut(name) for name in names], dtype=bool)
    columns = 2 if len(names) * _ROTATED < multiples.COLUMN - 0.7 else 1
    step = max(1, round(len(names) * _ROTATED / (multiples.PAGE / columns - 0.7)))
    sparsities = multiples.spread(panel.sparsities)
    lowest_row = sparsities[-columns:]

    def draw(axes: Axes, sparsity: float) -> None:
        axes.set_title(f"sparsity {tick_label(sparsity)}")
        here = {method: cells[method, sparsity] for method in panel.methods if (method, sparsity) in cells}
        if not here:
            return multiples.nothing(axes, "no run yet")
        axes.set_yscale("log")
        axes.axhline(1 - sparsity, color="0.45", linestyle=":", linewidth=1.1, label="all layers")
        depth = np.arange(float(len(names)))
        for i, (method, mean) in enumerate(here.items()):
            known = np.where(mean > 0, mean, np.nan)
            multiples.line(axes, method, depth[~parallel], known[~parallel])
            multiples.line(axes, method, depth[parallel], known[parallel]).set_linestyle("none")
            shifted = depth[mean == 0] + multiples.dodge(i, len(here), 1, 0.7)
            multiples.at_the_edge(axes, method, shifted, lowest)
        axes.set_ylim(lowest, 1.3)
        axes.yaxis.set_major_formatter(FuncFormatter(style.plain))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xticks(depth[::step], names[::step], rotation=90, fontsize=6.5)
        axes.tick_params(axis="x", labelbottom=sparsity in lowest_row)
        axes.set_ylabel("density")
        return None

    below = max(map(style.text_inches, names), default=0.0) * 6.5 / 8
    width = multiples.PAGE if len(sparsities) > 1 or columns == 1 else None
    heights, heading = [multiples.LOW - 0.3], panel.title
    return multiples.facets(sparsities, draw, panel.methods, heights, heading, columns, width, below)
