"""Figure of effective over nominal sparsity: their gap is the share of kept weights that are not live."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import multiples, style
from pbt_bench.analysis.statistics.panel import Panel


def effective_figure(panels: Sequence[Panel]) -> Figure:
    """Plot mean effective sparsity over seeds against nominal sparsity, per panel, with axes spaced by log density.

    On the grey line both are equal. A hollow mark at the upper edge, at 1, means that no seed has a live weight; these
    marks are shifted sideways so that methods do not overlap.
    """
    methods = style.method_order({method for panel in panels for method in panel.methods})
    return multiples.multiples(panels, _draw, methods)


def _draw(axes: Axes, panel: Panel) -> None:
    axes.set_title(style.title(panel.title))
    cells = panel.runs.groupby(["method", "sparsity"])["effective_sparsity"].mean().dropna()
    if cells.empty:
        return multiples.nothing(axes, "no run yet")
    places = style.position(panel.sparsities)
    alive = cells[cells < 1]
    highest = max(places[-1], style.position(alive).max(initial=0))
    top = highest + 0.12 * max(highest - places[0], 0.3)
    gap = np.diff(places).min() if len(places) > 1 else 0.3
    for i, method in enumerate(panel.methods):
        if method not in cells.index:
            continue
        own = cells.loc[method]
        whole = own < 1
        x, y = style.position(own.index), np.full(len(own), np.nan)
        y[whole] = style.position(own[whole])
        multiples.line(axes, method, x, y)
        multiples.at_the_edge(axes, method, x[~whole] + multiples.dodge(i, len(panel.methods), gap), top)
    axes.plot(places[[0, -1]], places[[0, -1]], color="0.6", linewidth=1, zorder=2)
    style.sparsity_axis(axes, panel.sparsities, multiples.COLUMN - 1)
    shown = [*panel.sparsities, 0.999, 0.9999, 0.99999]
    ticks = multiples.spread([sparsity for sparsity in shown if style.position(sparsity) <= highest], 6)
    dead = len(alive) < len(cells)
    axes.set_yticks([*style.position(ticks), *[top] * dead], [*map(style.tick_label, ticks), *["1"] * dead])
    axes.set_ylim(places[0] - 0.05, top)
    axes.set_ylabel("effective sparsity")
    return None
