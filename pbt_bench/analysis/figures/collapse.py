"""Heat maps of density per layer and sparsity, with empty layers crossed out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
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

    def draw(axes: Axes, i: int, width: float) -> Any:
        return _draw(axes, [cells.get((methods[i], sparsity)) for sparsity in sparsities], norm, width >= _WIDEST_CELL)

    titles, labels = list(map(shortened, methods)), (list(map(tick_label, sparsities)), names)
    return maps.grid_of_maps(panel.title, titles, draw, labels, _CELL, "mean density (columns: sparsity)")


def _draw(axes: Axes, columns: Sequence[NDArray[np.float64] | None], norm: LogNorm, wide: bool) -> Any:
    """Draw one heat map; a column has the densities (seeds, layers) of one sparsity, or None without a diagnosed run.

    Cells that are not `wide` show the number of seeds without the cross.
    """
    known = [densities for densities in columns if densities is not None]
    if not known:
        axes.text(0.5, 0.5, "no run yet", transform=axes.transAxes, ha="center", color="0.4")
        return None
    image, texts = (
        np.full((known[0].shape[1], len(columns)), np.nan),
        np.full((known[0].shape[1], len(columns)), "", "object"),
    )
    for x, densities in enumerate(columns):
        if densities is None:
            continue
        image[:, x] = densities.mean(axis=0)
        for y, empty in enumerate((densities == 0).sum(axis=0)):
            if empty == len(densities):
                texts[y, x] = "×"
            elif empty:
                texts[y, x] = f"{'× ' * wide}{empty}/{len(densities)}"
    # Empty layers are white at every scale. A density of 0 has no logarithm and would be drawn grey, as missing data.
    shown = np.where(image == 0, np.finfo(float).tiny, image)
    mesh = maps.heat_map(axes, shown, texts, 7 if wide else 6, norm=norm)
    for text in axes.texts:
        if text.get_text() == "×":
            text.set(fontsize=10, fontweight="bold")
    return mesh
