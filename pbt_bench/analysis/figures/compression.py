"""Figure of accuracy over the compression ratio, prunable weights / kept weights."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import multiples, style
from pbt_bench.analysis.statistics.panel import Panel


def compression_figure(panels: Sequence[Panel]) -> Figure:
    """Plot mean test accuracy in percent, ± standard deviation, over 1 / (1 - sparsity) on a log axis.

    Each panel has its own axes. Published numbers for the same cells form a thin line with a hollow mark at each mean.
    """
    methods = style.method_order({method for panel in panels for method in panel.shown})
    return multiples.multiples(panels, _draw, methods)


def _draw(axes: Axes, panel: Panel) -> None:
    axes.set_title(style.title(panel.title))
    table = panel.cells.dropna(subset="mean")
    printed = panel.printed_means
    if table.empty and printed.empty:
        return multiples.nothing(axes, "no run with an accuracy yet")
    if table.empty:
        axes.set_title(style.title(f"{panel.title} (published only)"))
    axes.set_xscale("log")
    axes.set_xlim(0.85 / (1 - panel.sparsities[0]), 1.18 / (1 - panel.sparsities[-1]))
    for method in panel.methods:
        if method in table.index:
            cells = 100 * table.loc[method, ["mean", "std"]]
            ratio = 1 / (1 - cells.index.to_numpy(dtype=float))
            multiples.line(axes, method, ratio, cells["mean"].to_numpy(), cells["std"].to_numpy())
    for name, means in printed.items():
        multiples.printed_line(axes, str(name), 1 / (1 - means.index.to_numpy()), 100 * means.to_numpy())
    values = [*(100 * table["mean"]), *(100 * panel.overlay["mean"])]
    dense, chance = panel.dense["test_accuracy"].mean(), panel.runs["chance_accuracy"].mean()
    multiples.accuracies(axes, values, 100 * dense, 100 * chance)
    multiples.log_axis(axes)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("compression (weights / kept weights)")
    return None
