"""Rank diagram: methods on an axis of average ranks, with bars that join indistinguishable methods."""

from __future__ import annotations

from matplotlib import rc_context
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import figure, multiples, style
from pbt_bench.analysis.statistics.average_ranks import rank_sentences
from pbt_bench.analysis.statistics.labels import counted, shortened
from pbt_bench.analysis.statistics.method_styles import method_style
from pbt_bench.analysis.statistics.study import Study

_LINE = 0.2  # inches between the baselines of two names


@figure(
    of="study",
    section="Ranks over all settings",
    title="Average ranks of the methods",
    caption="Methods are ranked by mean accuracy over seeds in every setting: dataset, model, sparsity and what else "
    "the study varies, sanity checks aside. A bar joins methods that cannot be told apart (Wilcoxon signed-rank test "
    "over settings, Holm-corrected over pairs, 0.05). Settings that differ in sparsity only are not independent, so p "
    "is rather too small.",
    order=70,
    needs=lambda study: len(study.ranks.average) > 1,
    text=lambda study: " ".join(rank_sentences(study.ranks)) if study.recorded else "",
    table=lambda study: study.ranks.pairs,
)
def ranks(study: Study) -> Figure:
    """Average ranks as in Demšar 2006, JMLR 7, Fig. 1, with all names on the left so that they fit a column."""
    found = study.ranks
    names, most = list(found.average.index), len(found.average)
    bars = len(found.groups)
    first = 0.35 + 0.13 * bars  # distance of the first name from the axis, inches
    height = 0.6 + first + _LINE * most
    with rc_context(style.RC | {"axes.grid": False}):
        drawn = style.new_figure(multiples.COLUMN, height)
        axes = drawn.add_subplot()
        axes.set_xlim(0.8, most + 0.2)
        axes.set_ylim(first + _LINE * most - 0.1, -0.05)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.spines["top"].set_visible(True)
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.set_xticks(range(1, most + 1))
        axes.set_yticks([])
        axes.set_xlabel(f"average rank over {counted(found.settings, 'setting')} (1 is best)")
        for i, name in enumerate(names):
            rank, styled = float(found.average[name]), method_style(name)
            y = first + _LINE * i
            axes.plot([rank, rank, 0.8], [0, y, y], color=styled.colour, linewidth=0.9, linestyle="-", clip_on=False)
            axes.plot([rank], [0], color=styled.colour, marker=styled.marker, clip_on=False, zorder=4)
            text, end = f"{shortened(name)} {rank:.2f}", (0.8, y)
            axes.annotate(text, end, (-4, 0), "data", "offset points", annotation_clip=False, ha="right", va="center")
        for row, group in enumerate(found.groups):
            ends = [float(found.average[group[0]]) - 0.04, float(found.average[group[-1]]) + 0.04]
            y = 0.2 + 0.13 * row
            axes.plot(ends, [y, y], color="black", linewidth=3, solid_capstyle="butt", zorder=5)
    return drawn
