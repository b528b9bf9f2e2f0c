"""Figure of accuracy over the metrics of the mask."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import figure, multiples
from pbt_bench.analysis.statistics.method_styles import method_style
from pbt_bench.analysis.statistics.panel import Panel, counted_accuracy

_METRIC_LABELS = {
    "live_unit_share": "share of live units",
    "log10_paths": "paths from input to output (log10)",
    "ramanujan_gap": "Ramanujan gap, mean of the layers",
    "gradient_norm": "norm of the gradient",
    "ntk_trace": "trace of the neural tangent kernel",
}
_LOGARITHMIC = ("gradient_norm", "ntk_trace")


@figure(
    of="panel",
    section="Accuracy against metrics of the mask",
    title="Accuracy against metrics of the mask",
    caption="A mark is a run; the metrics are those of the masked network before its training. Above each: Spearman’s "
    "rank correlation with the accuracy over all runs, and its mean over the sparsities, each with its own runs. Where "
    "only the first is high, the metric says little more than the sparsity. Runs without a value, such as those of a "
    "network without a path, are left out, and so are runs whose mask changes during training, and zeros on a "
    "logarithmic axis.",
    order=97,
    needs=lambda panel: bool(_fixed(panel.runs)[list(_METRIC_LABELS)].notna().to_numpy().any()),
)
def accuracy_and_mask_metrics(panel: Panel) -> Figure:
    """Test accuracy in percent of every run over each metric of its mask."""
    runs = _fixed(panel.runs.assign(accuracy=100 * counted_accuracy(panel.runs)).dropna(subset=["accuracy"]))

    def draw(axes: Axes, metric: str) -> None:
        shown = runs[runs[metric].notna() & ((runs[metric] > 0) | (metric not in _LOGARITHMIC))]
        if shown.empty:
            multiples.nothing(axes, "no run with this metric yet")
            return
        if metric in _LOGARITHMIC:
            axes.set_xscale("log")
        for method in panel.methods:
            own, styled = shown[shown["method"] == method], method_style(method)
            axes.plot(
                own[metric], own["accuracy"], color=styled.colour, marker=styled.marker, linestyle="none", alpha=0.7
            )
        multiples.accuracy_axis(axes, panel, list(shown["accuracy"]))
        if metric in _LOGARITHMIC:
            multiples.log_axis(axes)
        within = [rank_correlation(own, metric) for _, own in shown.groupby("sparsity")]
        within = [value for value in within if not np.isnan(value)]
        values = {"": rank_correlation(shown, metric), "at equal sparsity ": np.mean(within) if within else np.nan}
        texts = [f"{name}{value:.2f}" for name, value in values.items() if not np.isnan(value)]
        if texts:
            axes.set_title(f"rank correlation {', '.join(texts)}", fontsize=8, fontweight="normal")
        axes.set_xlabel(_METRIC_LABELS[metric])

    return multiples.facets(list(_METRIC_LABELS), draw, panel.methods, [multiples.LOW], panel.title)


def _fixed(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs whose mask is the same before and after the training."""
    return runs[runs["initial_mask_digest"].isna()]


def rank_correlation(runs: pd.DataFrame, metric: str) -> float:
    """Compute Spearman's correlation of a metric with the accuracy; NaN if one is constant or there are few runs."""
    ranks = runs[[metric, "accuracy"]].rank()
    if len(ranks) < 3 or (ranks.nunique() < 2).any():
        return float("nan")
    return float(np.corrcoef(ranks.to_numpy().T)[0, 1])
