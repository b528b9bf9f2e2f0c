"""Training curves: accuracy by epoch, mean over seeds, a line per method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pbt_bench.analysis import multiples, style
from pbt_bench.analysis.columns import Curve
from pbt_bench.analysis.summary import Panel

_MOST = 4  # sparsities that are shown


def curve_figure(panel: Panel) -> Figure:
    """A panel for each of up to four sparsities: validation accuracy in percent, of the training images where none.

    The mean of an epoch is over the runs that reached it; runs that were not trained have no curve. Black is dense.
    """
    dense = [curve for curve in panel.dense["curve"] if len(curve)]

    def draw(axes: Axes, sparsity: float) -> None:
        axes.set_title(f"sparsity {style.tick_label(sparsity)}")
        runs = panel.runs[panel.runs["sparsity"] == sparsity]
        runs = runs[[len(curve) > 0 for curve in runs["curve"]]]
        if runs.empty:
            return multiples.nothing(axes, "no trained run yet")
        curves = {"dense": dense} if dense else {}
        curves |= {method: list(runs.loc[runs["method"] == method, "curve"]) for method in panel.methods}
        for method, own in curves.items():
            if own:
                look, mean = style.look(method), 100 * mean_curve(own)
                epochs = np.arange(1, len(mean) + 1)
                every = max(1, len(mean) // 8)
                axes.plot(
                    epochs,
                    mean,
                    color=look.colour,
                    linestyle=look.dash,
                    marker=None if method == "dense" else look.marker,
                    markevery=every,
                    markersize=4,
                    linewidth=1.3,
                )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("accuracy (%)")
        return None

    return multiples.multiples(multiples.spread(panel.sparsities, _MOST), draw, panel.methods, heading=panel.title)


def mean_curve(curves: Sequence[Curve]) -> NDArray[np.float64]:
    """Mean accuracy of each epoch, over the curves that are so long."""
    values = [_accuracy(curve) for curve in curves]
    table = np.full((len(values), max(map(len, values))), np.nan)
    for row, own in zip(table, values, strict=True):
        row[: len(own)] = own
    known = ~np.isnan(table)
    count = known.sum(axis=0)
    mean: NDArray[np.float64] = np.where(count, np.where(known, table, 0).sum(axis=0) / np.maximum(count, 1), np.nan)
    return mean


def _accuracy(curve: Curve) -> NDArray[np.float64]:
    held_out = curve.column("validation_accuracy")
    return curve.column("train_accuracy") if np.isnan(held_out).all() else held_out
