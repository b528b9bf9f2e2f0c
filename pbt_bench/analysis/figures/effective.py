"""Figure of effective over nominal sparsity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import figure, multiples, style
from pbt_bench.analysis.statistics.labels import tick_label
from pbt_bench.analysis.statistics.method_styles import method_order
from pbt_bench.analysis.statistics.panel import Panel


@figure(
    of="dataset",
    section="When layers run empty",
    title="Effective against nominal sparsity",
    caption="Effective sparsity counts kept weights that lie on no path from input to output as pruned; mean over "
    "seeds. On the grey line none do; hollow marks at the upper edge: no path is left.",
    order=81,
)
def effective(panels: Sequence[Panel]) -> Figure:
    """Mean effective sparsity over nominal sparsity, both spaced by log density, with axes for each model."""
    return multiples.facets(panels, _draw, method_order({method for panel in panels for method in panel.methods}))


def _draw(axes: Axes, panel: Panel) -> None:
    cells = panel.runs.groupby(["method", "sparsity"])["effective_sparsity"].mean().dropna()
    if not multiples.begin(axes, panel, not cells.empty, False, "no run yet"):
        return
    nominal = style.position(panel.sparsities)
    alive = cells[cells < 1]
    highest = max(nominal[-1], style.position(alive).max(initial=0))
    top = highest + 0.12 * max(highest - nominal[0], 0.3)
    gap = style.smallest_gap(nominal)
    for i, method in enumerate(panel.methods):
        if method not in cells.index:
            continue
        own = cells.loc[method]
        whole = own < 1
        x, y = style.position(own.index), np.full(len(own), np.nan)
        y[whole] = style.position(own[whole])
        multiples.line(axes, method, x, y)
        multiples.at_the_edge(axes, method, x[~whole] + multiples.dodge(i, len(panel.methods), gap, 0.7), top)
    axes.plot(nominal[[0, -1]], nominal[[0, -1]], color="0.6", linewidth=1, zorder=2)
    style.sparsity_axis(axes, panel.sparsities, multiples.COLUMN - 1)
    shown = [*panel.sparsities, 0.999, 0.9999, 0.99999]
    ticks = multiples.spread([sparsity for sparsity in shown if style.position(sparsity) <= highest], 6)
    dead = len(alive) < len(cells)
    axes.set_yticks([*style.position(ticks), *[top] * dead], [*map(tick_label, ticks), *["1"] * dead])
    axes.set_ylim(nominal[0] - 0.05, top)
    axes.set_ylabel("effective sparsity")
