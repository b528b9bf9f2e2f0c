"""Style of all figures: fonts, the sparsity axis, numbers and titles as text, and saving to files."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from pbt_bench.analysis.statistics.labels import tick_label

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

RC: dict[RcKeyType, Any] = {
    "font.family": "DejaVu Sans",  # included in matplotlib, so figures are the same on every machine
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.handlelength": 3.2,  # long enough to show both dash and marker
    "legend.columnspacing": 1.0,
    "legend.handletextpad": 0.5,
    "figure.facecolor": "white",
    "savefig.dpi": 200,
    "text.parse_math": False,  # show a "$" in a name literally
    # Text as outlines and ids from a fixed salt make the SVG reproducible byte for byte.
    "svg.fonttype": "path",
    "svg.hashsalt": "pbt-bench",
}


def position(sparsity: Any) -> Any:
    """Compute the axis coordinate of a sparsity: -log10 of the density, which separates 0.98, 0.99 and 0.995."""
    return -np.log10(1 - np.asarray(sparsity, dtype=float))


def smallest_gap(positions: NDArray[np.float64]) -> float:
    """Return the smallest distance of two neighbouring positions, 0.3 if there is only one."""
    return float(np.diff(positions).min()) if len(positions) > 1 else 0.3


def sparsity_axis(axes: Axes, sparsities: Sequence[float], inches: float) -> None:
    """Set ticks at the sparsities of the data on an axis about `inches` long; omit labels that would overlap."""
    ticks = position(sparsities)
    labels = [tick_label(sparsity) for sparsity in sparsities]
    scale = inches / max(np.ptp(ticks), 0.3)
    left_end = np.inf
    for i in reversed(range(len(labels))):  # from the right, so that the highest sparsities keep their labels
        middle, half = ticks[i] * scale, text_inches(labels[i]) / 2
        if middle + half + 0.06 > left_end:
            labels[i] = ""
        else:
            left_end = middle - half
    axes.set_xticks(ticks, labels)
    axes.minorticks_off()
    axes.set_xlabel("sparsity (spaced by log density)")


def plain(value: float, _position: object = None) -> str:
    """Format a tick's number without an exponent, such as 0.00001."""
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


@lru_cache(maxsize=10_000)
def text_inches(text: str) -> float:
    """Compute the width of a text in inches at the normal font size, plus 0.1 inch."""
    with rc_context(RC):
        width = TextPath((0, 0), text, size=RC["font.size"]).get_extents().width if text.strip() else 0.0
    return float(width) / 72 + 0.1


def title(text: str, inches: float = 3.0) -> str:
    """Wrap a bold title to a width of about `inches`; the default is the width of axes in a column."""
    return textwrap.fill(text, max(20, int(inches / 0.085)))


def new_figure(width: float, height: float) -> Figure:
    """Create an empty figure of a size in inches, without pyplot's global state; draw on it inside `rc_context(RC)`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, stem: Path) -> bytes:
    """Write `stem`.png and `stem`.svg, and return the SVG; equal figures produce equal bytes."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(RC):
        figure.set_dpi(RC["savefig.dpi"])
        if engine := figure.get_layout_engine():
            engine.execute(figure)
        figure.set_layout_engine(None)  # the layout is final; with an engine, savefig draws each figure twice
        figure.savefig(stem.with_name(f"{stem.name}.png"))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "pbt-bench"})
    svg = _slim(buffer.getvalue().decode()).encode()
    stem.with_name(f"{stem.name}.svg").write_bytes(svg)
    return svg


def _slim(svg: str) -> str:
    """Remove comments and white space, and round coordinates to 0.01 point, which saves a sixth of the size."""
    svg = re.sub(r">\s+<", "><", re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL))

    def rounded(found: re.Match[str]) -> str:
        numbers = re.sub(r"([.]\d\d)\d+", r"\1", found[2]).split()
        return f' {found[1]}="{" ".join(numbers)}"'

    return re.sub(r' (d|x|y)="([^"]*)"', rounded, svg)
