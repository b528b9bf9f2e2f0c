"""Figures of a report: those of one panel, those of all panels of a dataset and setting, and that of the variants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from pbt_bench.analysis.figures.accuracy import accuracy_figure
from pbt_bench.analysis.figures.collapse import collapse_figure
from pbt_bench.analysis.figures.compression import compression_figure
from pbt_bench.analysis.figures.cost import cost_figure
from pbt_bench.analysis.figures.critical import critical_figure, printed_critical
from pbt_bench.analysis.figures.curves import curve_figure
from pbt_bench.analysis.figures.effective import effective_figure
from pbt_bench.analysis.figures.profiles import profile_figure
from pbt_bench.analysis.figures.variants import ablation_figure
from pbt_bench.analysis.pages.gallery import Gallery, Picture
from pbt_bench.analysis.records.columns import MISSING
from pbt_bench.analysis.statistics.panel import Panel, slug
from pbt_bench.analysis.statistics.variant_effects import Variant

_OF_PANEL: dict[str, tuple[Callable[[Panel], Figure], str]] = {
    "collapse": (collapse_figure, "Density per layer and sparsity"),
    "profiles": (profile_figure, "Density by depth"),
    "curves": (curve_figure, "Training curves"),
    "cost": (cost_figure, "Accuracy against cost"),
}
_OF_GROUP: dict[str, tuple[Callable[[Sequence[Panel]], Figure], str]] = {
    "accuracy": (accuracy_figure, "Accuracy against sparsity"),
    "compression": (compression_figure, "Accuracy against compression"),
    "critical": (critical_figure, "Critical sparsity"),
    "effective": (effective_figure, "Effective against nominal sparsity"),
}


def panel_pictures(gallery: Gallery, panel: Panel) -> dict[str, Picture | None]:
    """Register the figures of one panel and return them by kind, None without data to draw."""
    some = {kind: bool(panel.runs["status"].ne(MISSING).any()) for kind in _OF_PANEL}
    some["curves"] = any(len(curve) for curve in panel.runs["curve"])
    return {
        kind: gallery.picture(f"{kind}-{panel.slug}", f"{about}, {panel.title}", partial(draw, panel), states(panel))
        if some[kind]
        else None
        for kind, (draw, about) in _OF_PANEL.items()
    }


def group_pictures(gallery: Gallery, parts: Iterable[Panel]) -> list[dict[str, Picture | None]]:
    """Register the figures of each dataset and setting, which show all its models; None without data to draw."""
    found = []
    for title, group in _by_dataset(parts).items():
        pictures: dict[str, Picture | None] = {}
        runs = any(panel.runs["status"].ne(MISSING).any() for panel in group)
        printed = any(len(panel.overlay) for panel in group)
        some = {"accuracy": printed, "compression": printed, "critical": any(map(printed_critical, group))}
        for kind, (figure, what) in _OF_GROUP.items():
            pictures[kind] = (
                gallery.picture(slug(f"{kind} {title}"), f"{what}, {title}", partial(figure, group), states(*group))
                if runs or some.get(kind)
                else None
            )
        found.append(pictures)
    return found


def ablation_picture(gallery: Gallery, variants: Sequence[Variant], parts: Sequence[Panel]) -> Picture | None:
    """Register the figure of all variants, or return None without variants."""
    if not variants:
        return None
    draw: partial[Any] = partial(ablation_figure, variants)
    return gallery.picture("variants", "What the variants change", draw, states(*parts))


def states(*parts: Panel) -> list[str]:
    """Return the digests that identify everything that a figure of `parts` shows."""
    return [panel.states for panel in parts]


def _by_dataset(parts: Iterable[Panel]) -> dict[str, list[Panel]]:
    """Group the panels that share figures: all models of a dataset in the same setting."""
    groups: dict[str, list[Panel]] = {}
    for panel in parts:
        groups.setdefault(f"{panel.dataset}" + (f" ({panel.setting})" if panel.setting else ""), []).append(panel)
    return groups
