"""Figure of accuracy over cost: seconds of scoring and FLOPs of training."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import figure, multiples
from pbt_bench.analysis.statistics.panel import Panel, counted_accuracy

_COST_LABELS = {"mask_seconds": "one mask (seconds)", "training_share": "training FLOPs (% of the dense network's)"}


@figure(
    of="panel",
    section="What accuracy costs",
    title="Accuracy against cost",
    caption="A mark per sparsity, joined from low to high. Left: the seconds that a method takes for one mask, alone, "
    "on the machine that ran it. The sparsities of a seed share scores and their sort, and only the first run has "
    "their time; so the longest of a seed’s runs counts for all its sparsities, and the median of the seeds is "
    "shown. Right: the arithmetic of training as a share of the dense network’s, as the masks leave it.",
    order=45,
)
def cost(panel: Panel) -> Figure:
    """Mean test accuracy in percent over the seconds of one mask, and over flops_sparse / flops_dense.

    The seconds of a method are the median over the seeds of max(scoring_seconds) over the sparsities. The FLOPs are
    those of one pass through the live channels and weights. All runs have the same number of epochs and images, so the
    share holds for the whole training.
    """
    runs = panel.runs.assign(
        accuracy=100 * counted_accuracy(panel.runs),
        training_share=100 * panel.runs["flops_sparse"].astype("float64") / panel.runs["flops_dense"].astype("float64"),
    )
    runs = runs.dropna(subset=["accuracy", "training_share"])
    table = runs.groupby(["method", "sparsity"]).agg({"accuracy": "mean", "training_share": "mean"})
    seconds = runs.groupby(["method", "seed"])["scoring_seconds"].max().groupby("method").median()
    table = table.join(seconds.rename("mask_seconds"), on="method")

    def draw(axes: Axes, cost: str) -> None:
        if table.empty:
            return multiples.nothing(axes, "no run with an accuracy yet")
        axes.set_xscale("log")
        for method in panel.methods:
            own = table.loc[[method]] if method in table.index else table.iloc[:0]
            own = own[own[cost] > 0]
            multiples.line(axes, method, own[cost].to_numpy(), own["accuracy"].to_numpy())
        multiples.accuracy_axis(axes, panel, list(table["accuracy"]))
        multiples.log_axis(axes)
        axes.set_xlabel(_COST_LABELS[cost])
        return None

    return multiples.facets(list(_COST_LABELS), draw, panel.methods, heading=panel.title)
