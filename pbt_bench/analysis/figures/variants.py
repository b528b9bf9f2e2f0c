"""Figure of the accuracy change per method due to a variant: a sanity transform, warm-up, rewind, …"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import figure, multiples, style
from pbt_bench.analysis.statistics.method_styles import method_order, method_style
from pbt_bench.analysis.statistics.study import Study
from pbt_bench.analysis.statistics.variant_effects import Variant


@figure(
    of="study",
    section="What the variants change",
    caption="Accuracy of the variant minus that of its base on the same seeds, with its 95% interval (Student t).",
    order=60,
    needs=lambda study: study.variants,
    paper=True,
)
def variants(study: Study) -> Figure:
    """Change of accuracy in percentage points over sparsity, with axes for each variant.

    Marks are shifted sideways so that methods do not overlap.
    """
    lines = [line for variant in study.variants for line in variant.lines.values()]
    order = method_order({one.other for line in lines for one in line})

    def draw(axes: Axes, variant: Variant) -> None:
        axes.set_title(style.title(variant.title))
        lines = {float(label): line for label, line in variant.lines.items() if label[0].isdigit()}
        sparsities = sorted(lines)
        ticks = style.position(sparsities)
        gap = style.smallest_gap(ticks)
        axes.axhline(0, color="0.6", linewidth=1)
        for i, method in enumerate(order):
            points = [
                (at, one.mean, one.low, one.high)
                for at, sparsity in zip(ticks, sparsities, strict=True)
                for one in lines[sparsity]
                if one.other == method and one.pairs
            ]
            if not points:
                continue
            x, *changes = np.array(points).T
            x, (mean, low, high) = x + multiples.dodge(i, len(order), gap, 0.7), 100 * np.array(changes)
            styled = method_style(method)
            axes.vlines(x, low, high, color=styled.colour, linewidth=1)
            axes.plot(x, mean, color=styled.colour, linestyle="none", marker=styled.marker, markersize=4.5)
        style.sparsity_axis(axes, sparsities, multiples.COLUMN - 0.8)
        axes.set_xlim(ticks[0] - 0.6 * gap, ticks[-1] + 0.6 * gap)
        axes.set_ylabel("change (points)")

    return multiples.facets(study.variants, draw, order)
