"""Style of all figures: a fixed colour, marker and dash per method, the sparsity axis, and saving to files."""

from __future__ import annotations

import hashlib
import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

if TYPE_CHECKING:
    from matplotlib.typing import LineStyleType, MarkerType, RcKeyType

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


PAGE = 7.0  # inches: the text width of a page, for the maps of layers and of overlaps
MAP_GAP = 0.2  # inches between two maps


class Look(NamedTuple):
    """Colour, marker and dash of one method in every figure."""

    colour: str
    marker: MarkerType
    dash: LineStyleType


_DASHES: dict[str, LineStyleType] = {
    "-": "-",
    "--": (0, (5, 2)),
    ":": (0, (1.2, 1.4)),
    "-.": (0, (6, 1.5, 1.2, 1.5)),
}

# Upper bounds are drawn like methods: see bounds.py.
PRUNED_AFTER_TRAINING, LOTTERY_TICKET = "magnitude after training", "lottery ticket (rewound)"

# The main methods have the colours of Okabe and Ito; related methods have those of Paul Tol's "muted" scheme or a
# darker shade. Each pair of marker and dash is unique, so that methods are distinguishable in greyscale.
_KNOWN: dict[str, Look] = {
    name: Look(colour, marker, _DASHES[dash])
    for name, colour, marker, dash in (
        ("dense", "#000000", "_", "-"),
        ("random", "#7f7f7f", "o", ":"),
        ("magnitude", "#e69f00", "s", "--"),
        ("snip", "#0072b2", "^", "-"),
        ("grasp", "#009e73", "v", "-."),
        ("synflow", "#d55e00", "D", "-"),
        ("fts", "#cc79a7", "P", "-"),
        ("grad_norm", "#56b4e9", "<", "--"),
        ("fisher_diagonal", "#332288", "X", "--"),
        ("fisher_pruning", "#aa4499", ">", "-."),
        ("fbss", "#882255", "p", "-"),
        ("hutchinson_diagonal", "#117733", "h", "--"),
        ("hutchinson_pruning", "#999933", "*", "-"),
        ("hts", "#44aa99", "d", "-"),
        ("iterative_snip", "#004c78", "^", "--"),
        ("force", "#88ccee", "8", "-."),
        ("synflow_l2", "#8c3d00", "D", ":"),
        ("random_erk", "#4d4d4d", "o", "--"),
        ("random_uniform", "#a8a8a8", "o", "-."),
        ("ntk_sap", "#ddaa33", "p", ":"),
        ("prospr", "#cc6677", "X", "-"),
        ("phew", "#6b4c9a", "<", ":"),
        (PRUNED_AFTER_TRAINING, "#111111", "s", ":"),
        (LOTTERY_TICKET, "#2b2b2b", "*", "--"),
    )
}
# Colours and markers for users' methods; no known method has them.
_OWN_COLOURS = ("#1b9aaa", "#a6761d", "#e7298a", "#66a61e", "#5e60ce", "#b22222", "#2f4f4f", "#c49c94")
_OWN_MARKERS: tuple[MarkerType, ...] = ("H", (4, 1, 45), (5, 0, 180), (6, 1, 0))


def look(method: str) -> Look:
    """Return colour, marker and dash of a known method, or derive them from the name of an unknown one."""
    if method in _KNOWN:
        return _KNOWN[method]
    number = int.from_bytes(hashlib.sha256(method.encode()).digest()[:4], "big")
    number, colour = divmod(number, len(_OWN_COLOURS))
    number, marker = divmod(number, len(_OWN_MARKERS))
    return Look(_OWN_COLOURS[colour], _OWN_MARKERS[marker], list(_DASHES.values())[number % len(_DASHES)])


def method_order(methods: Iterable[str]) -> list[str]:
    """Sort methods: known ones in their fixed order, then unknown ones by name."""
    known = list(_KNOWN)
    return sorted(methods, key=lambda name: (known.index(name) if name in _KNOWN else len(known), name))


def position(sparsity: Any) -> Any:
    """Compute the axis coordinate of a sparsity: -log10 of the density, which separates 0.98, 0.99 and 0.995."""
    return -np.log10(1 - np.asarray(sparsity, dtype=float))


def sparsity_axis(axes: Axes, sparsities: Sequence[float], inches: float) -> None:
    """Set ticks at the sparsities of the data on an axis about `inches` long; omit labels that would overlap."""
    places = position(sparsities)
    labels = [tick_label(sparsity) for sparsity in sparsities]
    scale = inches / max(np.ptp(places), 0.3)
    left_end = np.inf
    for i in reversed(range(len(labels))):  # from the right, so that the highest sparsities keep their labels
        place, half = places[i] * scale, text_inches(labels[i]) / 2
        if place + half + 0.06 > left_end:
            labels[i] = ""
        else:
            left_end = place - half
    axes.set_xticks(places, labels)
    axes.minorticks_off()
    axes.set_xlabel("sparsity (spaced by log density)")


def tick_label(sparsity: float) -> str:
    """Format a sparsity as a short tick label: 0.995 for 0.995, 0.9953 for 0.995278, 0.999997 for 0.9999968."""
    decimals = max(4, 1 - math.floor(math.log10(1 - sparsity)))
    return f"{sparsity:.{decimals}f}".rstrip("0").rstrip(".")


def plain(value: float, _place: object = None) -> str:
    """Format a tick's number without an exponent, such as 0.00001."""
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


@lru_cache(maxsize=10_000)
def text_inches(text: str) -> float:
    """Compute the width of a text in inches at the normal font size, plus 0.1 inch."""
    with rc_context(RC):
        width = TextPath((0, 0), text, size=RC["font.size"]).get_extents().width if text.strip() else 0.0
    return float(width) / 72 + 0.1


def shortened(name: str, most: int = 26) -> str:
    """Replace the middle of a name with an ellipsis if it has more than `most` characters."""
    half = most // 2 - 1
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def title(text: str, inches: float = 3.0) -> str:
    """Wrap a bold title to a width of about `inches`; the default is the width of axes in a column."""
    return textwrap.fill(text, max(20, int(inches / 0.085)))


def maps_in_a_row(maps: int, cells: int, room: float, least: float, most: float) -> tuple[int, float]:
    """Compute the number of maps in a row `room` inches wide, and the width of a cell.

    `maps` is the total number of maps, each `cells` wide. A row has at most three maps, and the largest number whose
    cells are at least `least` inches wide. A cell is at most `most` inches wide.
    """
    fitting = (count for count in range(min(3, maps), 1, -1) if (room / count - MAP_GAP) / cells >= least)
    count = next(fitting, 1)
    return count, min(most, (room / count - MAP_GAP) / cells)


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
