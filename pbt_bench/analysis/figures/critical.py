"""Critical sparsity: the highest sparsity of a study before a layer of the network becomes empty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import figure, multiples, style
from pbt_bench.analysis.statistics.labels import shortened
from pbt_bench.analysis.statistics.method_styles import method_style
from pbt_bench.analysis.statistics.panel import Panel


def critical_sparsities(panel: Panel) -> pd.DataFrame:
    """Return a table with one row per method and seed with a diagnosed run.

    Its columns are `method`, `seed`, `critical` and `reached`. `critical` is the highest sparsity below the first one
    with an empty layer; it is NaN if the lowest sparsity has an empty layer. `reached` is False if no sparsity of the
    study has an empty layer; `critical` is then a lower bound.
    """
    runs = panel.runs[panel.runs["collapsed_layers"].notna()].sort_values("sparsity")
    rows = []
    for (method, seed), own in runs.groupby(["method", "seed"]):
        empty = (own["collapsed_layers"] > 0).to_numpy(dtype=bool)
        reached = bool(empty.any())
        whole = int(empty.argmax()) if reached else len(own)
        rows.append((method, seed, own["sparsity"].iloc[whole - 1] if whole else np.nan, reached))
    return pd.DataFrame(rows, columns=["method", "seed", "critical", "reached"])


def printed_critical(panel: Panel) -> dict[str, float]:
    """Return, by method, the highest sparsity before any published run has an empty layer.

    Methods without a published empty layer are absent, and so are those with one at the lowest sparsity.
    """
    found = {}
    for method, own in panel.overlay.dropna(subset="empty_layers").groupby("method"):
        empty = (own["empty_layers"] > 0).to_numpy(dtype=bool)
        if empty.any() and not empty[0]:
            found[str(method)] = float(own["sparsity"].iloc[int(empty.argmax()) - 1])
    return found


@figure(
    of="dataset",
    section="When layers run empty",
    title="Critical sparsity",
    caption="The highest sparsity of the study before a layer loses all its weights: a mark for the median seed, and "
    "a light point for every seed. Hollow: at least half of the seeds lose none at any sparsity. Cross at the left: "
    "empty from the lowest sparsity on. Black bar: from the masks of a paper.",
    order=80,
    needs=lambda panel: panel.recorded or printed_critical(panel),
    paper=True,
)
def critical(panels: Sequence[Panel]) -> Figure:
    """Critical sparsity of each method over seeds, with axes for each model."""
    rows = max((len(panel.methods) for panel in panels), default=1)
    return multiples.facets(panels, _draw, [], [0.8 + 0.2 * rows])


def _draw(axes: Axes, panel: Panel) -> None:
    table, printed = critical_sparsities(panel), printed_critical(panel)
    if not multiples.begin(axes, panel, not table.empty, bool(printed), "no run yet"):
        return
    names = list(map(shortened, panel.methods))
    style.sparsity_axis(axes, panel.sparsities, multiples.COLUMN - 0.3 - max(map(style.text_inches, names)))
    ticks = style.position(panel.sparsities)
    edge = ticks[0] - 0.06 * max(ticks[-1] - ticks[0], 0.3)
    for row, method in enumerate(panel.methods):
        own = table[table["method"] == method]
        if own.empty:
            continue
        styled = method_style(method)
        # Seeds with an empty layer at the lowest sparsity have no critical sparsity: draw them at the left edge.
        found = np.nan_to_num(style.position(own["critical"]), nan=edge)
        middle = np.quantile(found, 0.5, method="lower")
        seeds = np.unique(found)
        axes.plot(
            seeds, np.full(len(seeds), row), ".", color=styled.colour, markersize=6, markeredgewidth=0, alpha=0.45
        )
        (mark,) = axes.plot([middle], [row], color=styled.colour, markersize=5.5, clip_on=False)
        mark.set_marker("x" if middle == edge else styled.marker)
        if 2 * (~own["reached"]).sum() >= len(own):
            mark.set_markerfacecolor("white")
    for method, critical in printed.items():
        position = style.position(critical), panel.methods.index(method)
        axes.plot(*position, "|", color="black", markersize=10, zorder=5, label="published masks")
    axes.set_xlim(edge, ticks[-1] + (ticks[-1] - edge) * 0.04)
    axes.set_yticks(range(len(panel.methods)), names)
    axes.set_ylim(len(panel.methods) - 0.5, -0.5)
