"""Heat maps of density per layer and sparsity, with empty layers crossed out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from pbt_bench.analysis.figures import figure, maps
from pbt_bench.analysis.statistics.labels import layer_labels, shortened, tick_label
from pbt_bench.analysis.statistics.panel import Panel

_CELL = 0.2, 0.42, 0.15  # smallest and largest width and the height of a cell, inches
_WIDEST_CELL = 0.33  # inches: the width of "× 2/3"


@figure(
    of="panel",
    section="Where the weights went",
    title="Density per layer and sparsity",
    caption="The share of weights kept in each prunable layer, mean over seeds, on a log scale. A cross marks an "
    "empty layer, “k/n” one that is empty in k of n seeds; grey means no run. A plain network with an empty layer "
    "computes nothing; a residual one goes on, because its shortcuts carry the signal past.",
    order=91,
)
def collapse(panel: Panel) -> Figure:
    """Mean density over seeds: a map per method, a row per layer from input to output, a column per sparsity."""
    methods, sparsities, cells = panel.methods, panel.sparsities, panel.densities
    names = layer_labels(panel.diagnosed["layers"].iloc[0].names) if cells else []
    means = np.concatenate([densities.mean(axis=0) for densities in cells.values()] or [np.ones(1)])
    norm = LogNorm(means[means > 0].min(initial=0.1), 1)

    def draw(axes: Axes, i: int, width: float) -> AxesImage | None:
        return _draw(axes, [cells.get((methods[i], sparsity)) for sparsity in sparsities], norm, width >= _WIDEST_CELL)

    titles, labels = list(map(shortened, methods)), (list(map(tick_label, sparsities)), names)
    return maps.grid_of_maps(panel.title, titles, draw, labels, _CELL, "mean density (columns: sparsity)")


def _draw(axes: Axes, columns: Sequence[NDArray[np.float64] | None], norm: LogNorm, wide: bool) -> AxesImage | None:
    """Draw one heat map; a column has the densities (seeds, layers) of one sparsity, or None without a diagnosed run.

    Cells that are not `wide` show the number of seeds without the cross.
    """
    known = [densities for densities in columns if densities is not None]
    if not known:
        axes.text(0.5, 0.5, "no run yet", transform=axes.transAxes, ha="center", color="0.4")
        return None
    layers = known[0].shape[1]
    image = np.full((layers, len(columns)), np.nan)
    for x, densities in enumerate(columns):
        if densities is None:
            continue
        image[:, x] = densities.mean(axis=0)
        for y, empty in enumerate((densities == 0).sum(axis=0)):
            if empty == len(densities):
                axes.text(x, y, "×", ha="center", va="center_baseline", fontsize=10, fontweight="bold")
            elif empty:
                colour = "black" if norm(image[y, x]) > 0.6 else "white"
                text = f"{'× ' * wide}{empty}/{len(densities)}"
                axes.text(x, y, text, ha="center", va="center_baseline", fontsize=7 if wide else 6, color=colour)
    # Empty layers are white at every scale. A density of 0 has no logarithm and would be drawn grey, as missing data.
    shown = np.where(image == 0, np.finfo(float).tiny, image)
    # The file size of an image hardly depends on the number of cells.
    drawn = axes.imshow(shown, norm=norm, cmap=maps.COLOURS, aspect="auto", interpolation="none")
    axes.vlines(np.arange(1, len(columns)) - 0.5, -0.5, layers - 0.5, color="0.97", linewidth=0.4)
    axes.hlines(np.arange(1, layers) - 0.5, -0.5, len(columns) - 0.5, color="0.97", linewidth=0.4)
    return drawn
