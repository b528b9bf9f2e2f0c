"""Figure of accuracy over the values of an option of a method."""

from __future__ import annotations

from collections import defaultdict

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import figure, multiples
from pbt_bench.analysis.statistics.labels import tick_label
from pbt_bench.analysis.statistics.panel import Panel, counted_accuracy


def numeric_options(panel: Panel) -> dict[tuple[str, str], dict[float, str]]:
    """Return (method, option) -> value -> the method with this option alone, of options with two or more numbers."""
    found: dict[tuple[str, str], dict[float, str]] = defaultdict(dict)
    for variant, options in dict(zip(panel.runs["method"], panel.runs["options"], strict=True)).items():
        if len(options) == 1:
            ((option, value),) = options.items()
            if isinstance(value, int | float) and not isinstance(value, bool):
                found[variant.partition(" (")[0], option][value] = variant
    return {key: values for key, values in sorted(found.items()) if len(values) > 1}


@figure(
    of="panel",
    section="What an option changes",
    title="Accuracy over the values of an option",
    caption="Mean test accuracy over seeds, a line per sparsity (up to four). Dotted: the method with its default.",
    order=55,
    needs=lambda panel: panel.recorded and numeric_options(panel),
)
def option_values(panel: Panel) -> Figure:
    """Mean test accuracy in percent over the values of each numeric option, with a line per sparsity."""
    runs = panel.runs.assign(accuracy=100 * counted_accuracy(panel.runs))
    means = runs.groupby(["method", "sparsity"])["accuracy"].mean()
    options = numeric_options(panel)
    sparsities = multiples.spread(panel.sparsities)
    colours = dict(zip(sparsities, sns.color_palette("viridis", len(sparsities)), strict=True))

    def draw(axes: Axes, key: tuple[str, str]) -> None:
        values = options[key]
        axes.set_title(key[0])
        own = runs.assign(value=runs["method"].map({method: value for value, method in values.items()}))
        for sparsity, colour in colours.items():
            sns.lineplot(
                own[own["sparsity"] == sparsity].dropna(subset=["value", "accuracy"]),
                x="value",
                y="accuracy",
                color=colour,
                marker="o",
                markeredgecolor="auto",
                errorbar=multiples.interval,
                err_style="bars",
                label=f"sparsity {tick_label(sparsity)}",
                legend=False,
                ax=axes,
            )
            if (key[0], sparsity) in means:
                axes.axhline(means[key[0], sparsity], color=colour, linestyle=":")
        if min(values) > 0 and max(values) >= 20 * min(values):
            axes.set_xscale("log")
            multiples.log_axis(axes)
        axes.set_xlabel(key[1].replace("_", " "))
        axes.set_ylabel("test accuracy (%)")

    return multiples.facets(list(options), draw, [], heading=panel.title)
