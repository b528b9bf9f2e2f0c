"""Figure of accuracy over the effective compression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import figure, multiples
from pbt_bench.analysis.statistics.method_styles import method_order
from pbt_bench.analysis.statistics.panel import Panel


@figure(
    of="dataset",
    section="Accuracy against compression",
    title="Accuracy against effective compression",
    caption="Mean over seeds. Effective compression is weights / live weights, those on a "
    "path of kept weights from input to output. Hollow marks at the right edge: no path is left.",
    order=31,
    needs=lambda panel: panel.recorded or len(panel.printed_effective),
    paper=True,
)
def effective_compression(panels: Sequence[Panel]) -> Figure:
    """Test accuracy in percent over 1 / (1 - mean effective sparsity) on a log axis, with axes for each model."""
    shown = [{*panel.cells.dropna(subset="mean").index.unique("method")} for panel in panels]
    printed = [{*panel.printed_effective["method"]} for panel in panels]
    return multiples.facets(panels, _draw, method_order(set().union(*shown, *printed)))


def _draw(axes: Axes, panel: Panel) -> None:
    live = 1 - panel.runs.groupby(["method", "sparsity"])["effective_sparsity"].mean()
    table, printed = panel.cells.assign(live=live).dropna(subset=["mean", "live"]), panel.printed_effective
    if not multiples.begin(axes, panel, not table.empty, not printed.empty):
        return
    ratios = [*(1 / table["live"][table["live"] > 0]), *printed["effective_compression"]]
    left, right = (0.85 * min(ratios), 1.18 * max(ratios)) if ratios else (1, 10)
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    for method, cells in multiples.by_method(table).items():
        own = table["live"].loc[method].to_numpy()
        multiples.means(axes, method, cells[own > 0], 1 / own[own > 0])
        for mean in cells["mean"][own == 0]:
            multiples.at_the_edge(axes, method, np.array([right]), mean)
    for name, rows in printed.groupby("method"):
        x, y = rows[["effective_compression", "mean"]].to_numpy().T
        multiples.printed_line(axes, str(name), x, 100 * y)
    multiples.accuracy_axis(axes, panel, [*(100 * table["mean"]), *(100 * printed["mean"])])
    multiples.log_axis(axes)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("effective compression (weights / live weights)")
