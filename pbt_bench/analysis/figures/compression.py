"""Figure of accuracy over the compression ratio."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import figure, multiples, style
from pbt_bench.analysis.statistics.method_styles import method_order
from pbt_bench.analysis.statistics.panel import Panel


@figure(
    of="dataset",
    section="Accuracy against compression",
    caption="Mean over seeds, hollow if all runs diverged or collapsed. Compression 100 keeps one weight in a hundred "
    "(sparsity 0.99).",
    order=30,
    needs=lambda panel: panel.has_accuracy,
    paper=True,
)
def compression(panels: Sequence[Panel]) -> Figure:
    """Test accuracy in percent over 1 / (1 - sparsity) on a log axis, with axes for each model."""
    methods = method_order({method for panel in panels for method in panel.shown})
    return multiples.facets(panels, _draw, methods)


def _draw(axes: Axes, panel: Panel) -> None:
    table, printed = panel.cells.dropna(subset="mean"), panel.printed_means
    if not multiples.begin(axes, panel, not table.empty, not printed.empty):
        return
    axes.set_xscale("log")
    axes.set_xlim(0.85 / (1 - panel.sparsities[0]), 1.18 / (1 - panel.sparsities[-1]))
    gap = style.smallest_gap(style.position(panel.sparsities))
    for method, cells in multiples.by_method(table).items():
        ratio = 1 / (1 - cells.index.to_numpy(dtype=float))
        bars = ratio * 10 ** multiples.dodge(panel.methods.index(method), len(panel.methods), gap)
        multiples.means(axes, method, cells, ratio, bars)
    for name, means in printed.items():
        multiples.printed_line(axes, str(name), 1 / (1 - means.index.to_numpy()), 100 * means.to_numpy())
    multiples.accuracy_axis(axes, panel, [*(100 * table["mean"]), *(100 * panel.overlay["mean"])])
    multiples.log_axis(axes)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("compression (weights / kept weights)")
