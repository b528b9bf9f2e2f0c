"""Rank diagram: methods on an axis of average ranks, with bars that join indistinguishable methods."""

from __future__ import annotations

from matplotlib import rc_context
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import style
from pbt_bench.analysis.statistics.average_ranks import Ranks

_WIDTH = 3.5  # inches: the column width of a paper
_LINE = 0.2  # inches between the baselines of two names


def rank_figure(found: Ranks) -> Figure:
    """Plot average ranks as in Demšar 2006, JMLR 7, Fig. 1, with all names on the left so that it fits a column.

    A bar joins methods that do not differ significantly in any pair (Wilcoxon signed-rank test, Holm-corrected).
    """
    names, most = list(found.average.index), len(found.average)
    bars = len(found.groups)
    first = 0.35 + 0.13 * bars  # distance of the first name from the axis, inches
    height = 0.6 + first + _LINE * most
    with rc_context(style.RC | {"axes.grid": False}):
        figure = style.new_figure(_WIDTH, height)
        axes = figure.add_subplot()
        axes.set_xlim(0.8, most + 0.2)
        axes.set_ylim(first + _LINE * most - 0.1, -0.05)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.spines["top"].set_visible(True)
        axes.xaxis.set_ticks_position("top")
        axes.xaxis.set_label_position("top")
        axes.set_xticks(range(1, most + 1))
        axes.set_yticks([])
        axes.set_xlabel(f"average rank over {found.settings} setting{'s' * (found.settings != 1)} (1 is best)")
        for i, name in enumerate(names):
            rank, look = float(found.average[name]), style.look(name)
            y = first + _LINE * i
            axes.plot([rank, rank, 0.8], [0, y, y], color=look.colour, linewidth=0.9, linestyle="-", clip_on=False)
            axes.plot([rank], [0], color=look.colour, marker=look.marker, clip_on=False, zorder=4)
            axes.annotate(
                f"{style.shortened(name)} {rank:.2f}",
                (0.8, y),
                xytext=(-4, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                annotation_clip=False,
            )
        for row, group in enumerate(found.groups):
            ends = [float(found.average[group[0]]) - 0.04, float(found.average[group[-1]]) + 0.04]
            y = 0.2 + 0.13 * row
            axes.plot(ends, [y, y], color="black", linewidth=3, solid_capstyle="butt", zorder=5)
    return figure
