"""Figure of training curves: mean accuracy over seeds at each epoch, with a line per method."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pbt_bench.analysis.figures import figure, multiples
from pbt_bench.analysis.statistics.labels import tick_label
from pbt_bench.analysis.statistics.method_styles import method_style
from pbt_bench.analysis.statistics.panel import ENDED, Panel
from pbt_bench.spec import DENSE


@figure(
    of="panel",
    section="Training curves",
    caption="Mean validation accuracy by epoch (of the training images where none are held out), for up to four "
    "sparsities. A curve that still rises at the end shows that the recipe is too short for this sparsity.",
    order=40,
    needs=lambda panel: any(map(len, panel.runs["curve"])),
)
def curves(panel: Panel) -> Figure:
    """Mean accuracy in percent at each epoch over the runs that reached it, with axes for each sparsity."""

    def draw(axes: Axes, sparsity: float) -> None:
        axes.set_title(f"sparsity {tick_label(sparsity)}")
        runs = panel.runs[panel.runs["sparsity"] == sparsity]
        means = {method: mean_curve(runs[runs["method"] == method]) for method in panel.methods}
        if all(np.isnan(mean).all() for mean in means.values()):
            return multiples.nothing(axes, "no trained run yet")
        for method, mean in ({DENSE: mean_curve(panel.dense)} | means).items():
            if not np.isnan(mean).all():
                styled, epochs = method_style(method), np.arange(1, len(mean) + 1)
                (line,) = axes.plot(epochs, 100 * mean, color=styled.colour, linestyle=styled.dash)
                if method == DENSE:
                    line.set_label(DENSE)
                else:
                    line.set(marker=styled.marker, markevery=max(1, len(mean) // 8))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("accuracy (%)")
        return None

    return multiples.stack(multiples.spread(panel.sparsities), draw, panel.methods, multiples.LOW, panel.title)


def mean_curve(runs: pd.DataFrame) -> NDArray[np.float64]:
    """Return the mean accuracy at each epoch, NaN if no run has one.

    Collapsed runs, and diverged runs after their last epoch, count at chance accuracy.
    """
    table = np.full((len(runs), max([*runs["epochs"], *map(len, runs["curve"])], default=0)), np.nan)
    ended = runs["status"].isin(ENDED)
    for row, curve, chance in zip(table, runs["curve"], runs["chance_accuracy"].where(ended), strict=True):
        held_out = curve.column("validation_accuracy")
        first = int(np.clip(curve[0].epoch - 1, 0, len(row) - len(curve))) if len(curve) else 0  # rewound runs: not 0
        last = first + len(curve)
        row[first:last] = curve.column("train_accuracy") if np.isnan(held_out).all() else held_out
        row[last:] = chance
    return pd.DataFrame(table).mean().to_numpy(dtype=float)
