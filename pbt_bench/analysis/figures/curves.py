"""Figure of training curves: mean accuracy and its interval over seeds at each epoch."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pbt_bench.analysis.figures import figure, multiples
from pbt_bench.analysis.statistics.labels import tick_label
from pbt_bench.analysis.statistics.panel import ENDED, Panel
from pbt_bench.spec import DENSE


@figure(
    of="panel",
    section="Training curves",
    caption="Mean validation accuracy by epoch (of the training images where none are held out), with a band over the "
    "seeds, for up to four sparsities. A curve that still rises at the end shows that the recipe is too short for this "
    "sparsity.",
    order=40,
    needs=lambda panel: any(map(len, panel.runs["curve"])),
)
def curves(panel: Panel) -> Figure:
    """Mean accuracy in percent at each epoch over the runs that reached it, with axes for each sparsity."""

    def draw(axes: Axes, sparsity: float) -> None:
        axes.set_title(f"sparsity {tick_label(sparsity)}")
        runs = panel.runs[panel.runs["sparsity"] == sparsity]
        table = _rows(runs)
        if table.empty:
            return multiples.nothing(axes, "no trained run yet")
        epochs = int(table["epoch"].max())
        multiples.lines(axes, _rows(panel.dense), [DENSE], "epoch", label=DENSE, markers=False)
        multiples.lines(axes, table, panel.methods, "epoch", markevery=max(1, epochs // 8))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("accuracy (%)")
        return None

    return multiples.facets(multiples.spread(panel.sparsities), draw, panel.methods, [multiples.LOW], panel.title)


def _rows(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a table with one row per run and epoch: `method`, `epoch` from 1, and `accuracy` in percent."""
    values = accuracy_curves(runs)
    run, epoch = np.nonzero(~np.isnan(values))
    methods = runs["method"].to_numpy(dtype=object)[run]
    return pd.DataFrame({"method": methods, "epoch": epoch + 1, "accuracy": 100 * values[run, epoch]})


def accuracy_curves(runs: pd.DataFrame) -> NDArray[np.float64]:
    """Return the accuracy of each run at each epoch, NaN where it has none.

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
    return table
