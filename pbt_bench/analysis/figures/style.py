"""Style of all figures: fonts, the sparsity axis, numbers and titles as text, and saving to files."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from pbt_bench.analysis.statistics.labels import tick_label

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

RC: dict[RcKeyType, Any] = {
    **sns.axes_style("ticks"),
    **sns.plotting_context("paper", font_scale=8 / 9.6),  # 8 points
    "font.family": "DejaVu Sans",  # included in matplotlib, so figures are the same on every machine
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.linewidth": 0.8,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.handlelength": 3.2,  # long enough to show both dash and marker
    "legend.columnspacing": 1.0,
    "legend.handletextpad": 0.5,
    "savefig.dpi": 200,
    "text.parse_math": False,  # show a "$" in a name literally
    # Text as outlines and ids from a fixed salt make the SVG reproducible byte for byte.
    "svg.fonttype": "path",
    "svg.hashsalt": "pbt-bench",
}
_TICK_SIZE, _UPRIGHT = 7, 0.125  # points; inches between upright labels

# Colours of text on the cells of a heat map, which dark mode leaves as they are.
ON_LIGHT, ON_DARK = "#0d0d0d", "#fdfdfd"
_DARK, _LIGHTEST = "#1c2226", 0.9  # in dark mode: the background, and the grey in place of black
_FAINT = 0.85  # the darkest grey that stays faint in dark mode
_CONTRAST = 3.0  # to the background, of lines and marks (WCAG 2.1, success criterion 1.4.11)
_ONLY_GAP = 0.3  # between the ticks of a sparsity axis, if it has one tick


def position(sparsity: Any) -> Any:
    """Compute the axis coordinate of a sparsity: -log10 of the density, which separates 0.98, 0.99 and 0.995."""
    return -np.log10(1 - np.asarray(sparsity, dtype=float))


def smallest_gap(positions: NDArray[np.float64]) -> float:
    """Return the smallest distance of two neighbouring positions, `_ONLY_GAP` if there is only one."""
    return float(np.diff(positions).min()) if len(positions) > 1 else _ONLY_GAP


def sparsity_axis(axes: Axes, sparsities: Sequence[float], inches: float) -> None:
    """Set a tick at every sparsity of the data on an axis about `inches` long.

    Labels that would overlap are upright. If upright ones would overlap too, some are omitted; the highest sparsity
    always has a label.
    """
    ticks = position(sparsities)
    labels = [tick_label(sparsity) for sparsity in sparsities]
    scale = inches / max(np.ptp(ticks) + smallest_gap(ticks), _ONLY_GAP)
    widths = np.array([text_inches(label, _TICK_SIZE) for label in labels])
    upright = bool((scale * np.diff(ticks) < (widths[1:] + widths[:-1]) / 2 - 0.05).any())
    last = np.inf
    for i in reversed(range(len(labels))):
        if upright and (last - ticks[i]) * scale < _UPRIGHT:
            labels[i] = ""
        else:
            last = ticks[i]
    axes.set_xticks(ticks, labels, rotation=90 if upright else 0, fontsize=_TICK_SIZE)
    if len(ticks) == 1:  # else the bars beside the one point would span the axis
        axes.set_xlim(ticks[0] - _ONLY_GAP, ticks[0] + _ONLY_GAP)
    axes.minorticks_off()
    axes.set_xlabel("sparsity (spaced by log density)")


def plain(value: float, _position: object = None) -> str:
    """Format a tick's number without an exponent, such as 0.00001."""
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


@lru_cache(maxsize=10_000)
def text_inches(text: str, points: float = 8) -> float:
    """Compute the width of a text in inches at a font size, that of the figures by default, plus 0.1 inch."""
    with rc_context(RC):
        width = TextPath((0, 0), text, size=points).get_extents().width if text.strip() else 0.0
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
    found = svg(figure)
    with rc_context(RC):
        figure.savefig(stem.with_name(f"{stem.name}.png"))
    stem.with_name(f"{stem.name}.svg").write_bytes(found)
    return found


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """Return a figure as RGBA values, [height, width, 4]."""
    with rc_context(RC):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        return np.array(canvas.buffer_rgba())  # type: ignore[no-untyped-call]


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG, with its final layout; equal figures produce equal bytes.

    The SVG has a style sheet for dark mode, in which background, text and dark lines change their colours. A browser
    applies it where the page's colour scheme is dark; programs without `prefers-color-scheme` ignore it.
    """
    with rc_context(RC):
        figure.set_dpi(RC["savefig.dpi"])
        if engine := figure.get_layout_engine():
            engine.execute(figure)
        figure.set_layout_engine(None)  # the layout is final; with an engine, savefig draws each figure twice
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "pbt-bench"})
    return _with_dark_mode(_slim(buffer.getvalue().decode())).encode()


def _slim(text: str) -> str:
    """Remove comments and white space, and round coordinates to 0.01 point, which saves a sixth of the size."""
    text = re.sub(r">\s+<", "><", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))

    def rounded(found: re.Match[str]) -> str:
        numbers = re.sub(r"([.]\d\d)\d+", r"\1", found[2]).split()
        return f' {found[1]}="{" ".join(numbers)}"'

    return re.sub(r' (d|x|y)="([^"]*)"', rounded, text)


def _with_dark_mode(text: str) -> str:
    """Insert a style sheet that replaces every colour of lines, marks and text in dark mode."""
    used = sorted(set(re.findall(r"(fill|stroke): (#[0-9a-f]{6})", text)))
    changed = [(kind, colour, dark(colour)) for kind, colour in used if colour not in (ON_LIGHT, ON_DARK)]
    rules = [f"[style*='{kind}: {old}']{{{kind}:{new}!important}}" for kind, old, new in changed if old != new]
    rules.append(f"svg{{fill:{dark('#000000')}}}")  # matplotlib leaves out the default, black
    return text.replace("<defs>", f"<style>@media (prefers-color-scheme:dark){{{''.join(rules)}}}</style><defs>", 1)


@cache
def dark(colour: str) -> str:
    """Return the colour that replaces a hexadecimal colour in dark mode.

    Greys are mirrored, from white as the background to a light grey for black. Then all colours except those of white
    and of grids are mixed with white until they contrast with the background.
    """
    rgb, background = np.array(to_rgb(colour)), np.array(to_rgb(_DARK))
    if np.ptp(rgb) < 0.04:
        faint = rgb.mean() > _FAINT
        rgb = _LIGHTEST + (background - _LIGHTEST) * rgb.mean()
        if faint:
            return to_hex(rgb)
    shares = np.linspace(0, 1, 21)[:, None]
    mixed = rgb + (1 - rgb) * shares
    contrasts = (_luminance(mixed) + 0.05) / (_luminance(background) + 0.05)
    return to_hex(mixed[np.argmax(contrasts >= _CONTRAST)])


def _luminance(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the relative luminance of colours as WCAG 2.1 defines it."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    result: NDArray[np.float64] = linear @ np.array([0.2126, 0.7152, 0.0722])
    return result
