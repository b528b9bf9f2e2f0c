"""Figure of accuracy over the values of an option of a method."""

from __future__ import annotations

from collections import defaultdict

import matplotlib as mpl
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
    means = (100 * counted_accuracy(panel.runs)).groupby([panel.runs["method"], panel.runs["sparsity"]]).mean()
    options = numeric_options(panel)
    sparsities = multiples.spread(panel.sparsities)
    colours = mpl.colormaps["viridis"].resampled(len(sparsities) + 1)

    def draw(axes: Axes, key: tuple[str, str]) -> None:
        values = options[key]
        axes.set_title(key[0])
        for index, sparsity in enumerate(sparsities):
            points = [(value, means.get((values[value], sparsity))) for value in sorted(values)]
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker="o", color=colours(index), label=f"sparsity {tick_label(sparsity)}")
            if (key[0], sparsity) in means:
                axes.axhline(means[key[0], sparsity], color=colours(index), linestyle=":")
        if min(values) > 0 and max(values) >= 20 * min(values):
            axes.set_xscale("log")
            multiples.log_axis(axes)
        axes.set_xlabel(key[1].replace("_", " "))
        axes.set_ylabel("test accuracy (%)")

    return multiples.stack(list(options), draw, [], heading=panel.title)
