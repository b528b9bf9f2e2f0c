"""Figure of the accuracy change per method due to a variant: a sanity transform, warm-up, rewind, …"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import multiples, style
from pbt_bench.analysis.statistics.variant_effects import Variant


def ablation_figure(variants: Sequence[Variant]) -> Figure:
    """Plot the accuracy of each variant minus that of its base on the same seeds, in percentage points, over sparsity.

    Each variant has its own axes. A mark per method has its 95% bootstrap interval. Marks are shifted sideways so that
    methods do not overlap. The grey line is at zero change.
    """
    order = style.method_order({one.other for variant in variants for line in variant.lines.values() for one in line})

    def draw(axes: Axes, variant: Variant) -> None:
        axes.set_title(style.title(variant.title))
        lines = {float(label): line for label, line in variant.lines.items() if label[0].isdigit()}
        sparsities = sorted(lines)
        places = style.position(sparsities)
        gap = np.diff(places).min() if len(places) > 1 else 0.3
        axes.axhline(0, color="0.6", linewidth=1)
        for i, method in enumerate(order):
            points = [
                (at, one) for at, s in zip(places, sparsities, strict=True) for one in lines[s] if one.other == method
            ]
            points = [(at, one) for at, one in points if one.pairs]
            if not points:
                continue
            look = style.look(method)
            x = np.array([at for at, _ in points]) + multiples.dodge(i, len(order), gap)
            mean, low, high = (
                100 * np.array([getattr(one, name) for _, one in points]) for name in ("mean", "low", "high")
            )
            axes.vlines(x, low, high, color=look.colour, linewidth=1)
            axes.plot(x, mean, color=look.colour, linestyle="none", marker=look.marker, markersize=4.5)
        style.sparsity_axis(axes, sparsities, multiples.COLUMN - 0.8)
        axes.set_xlim(places[0] - 0.6 * gap, places[-1] + 0.6 * gap)
        axes.set_ylabel("change (points)")

    return multiples.multiples(variants, draw, order)
