"""Mean accuracy of the methods over all settings, as differences to the best, with letters for what seeds separate."""

from __future__ import annotations

from matplotlib import rc_context
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import figure, multiples, style
from pbt_bench.analysis.statistics.labels import counted, shortened
from pbt_bench.analysis.statistics.method_styles import method_style
from pbt_bench.analysis.statistics.pooled import pooled_sentences
from pbt_bench.analysis.statistics.study import Study


@figure(
    of="study",
    section="All settings together",
    title="Mean accuracy over all settings",
    caption="Accuracy is averaged over the sparsities of each network and seed; a network and a seed are a replicate. "
    "A mark is a method's mean minus that of the best method, a bar the 95% interval of this difference "
    "(Student t). Methods that share a letter are not separated by the t test, Holm-corrected over all pairs at 0.05.",
    order=70,
    needs=lambda study: len(study.pooled.means) > 1,
    text=lambda study: " ".join(pooled_sentences(study.pooled)) if study.recorded else "",
    table=lambda study: study.pooled.pairs,
)
def pooled_differences(study: Study) -> Figure:
    """Difference to the best method in percentage points, with compact letters."""
    found = study.pooled
    names, letters = list(found.means.index), found.letters
    rows = found.pairs[found.pairs["method_a"] == names[0]].set_index("method_b")
    with rc_context(style.RC | {"axes.grid.axis": "x"}):
        drawn = style.new_figure(multiples.COLUMN, 0.7 + 0.2 * len(names))
        axes = drawn.add_subplot()
        axes.axvline(0, color="0.6", linewidth=1)
        for y, name in enumerate(names):
            styled, mean = method_style(name), 0.0
            if name in rows.index:
                mean, low, high = (-100 * float(rows.at[name, column]) for column in ("difference", "low", "high"))
                axes.plot([low, high], [y, y], color=styled.colour, solid_capstyle="butt")
            axes.plot([mean], [y], color=styled.colour, marker=styled.marker, markersize=5)
            end = (1, y), (4, 0), ("axes fraction", "data"), "offset points"
            axes.annotate(letters[name], *end, va="center", annotation_clip=False)
        axes.set_yticks(range(len(names)), [f"{shortened(name)} {100 * found.means[name]:.2f}" for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(f"points below {shortened(names[0])}, mean of {counted(found.settings, 'setting')}")
    return drawn
