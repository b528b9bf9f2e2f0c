"""Figures, one file each, and the modules that they share.

A figure is a function with `@figure(...)` in a file of this folder, or of a folder in PBT_BENCH_FIGURES. It takes one
panel, the panels of a dataset, or the whole study, and returns a matplotlib figure. The report's page, the papers' page
and the documentation follow from its declaration.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from pbt_bench import registry
from pbt_bench.analysis.statistics.panel import Panel, slug
from pbt_bench.analysis.statistics.study import Study

Draw = TypeVar("Draw", bound=Callable[..., Figure])


@dataclass(frozen=True)
class Entry:
    """A declared figure; `figure` describes the fields."""

    name: str
    draw: Callable[[Any], Figure]
    of: Literal["panel", "dataset", "study"]
    section: str
    title: str
    caption: str
    order: int
    needs: Callable[[Any], object]
    text: Callable[[Any], str]
    table: Callable[[Any], pd.DataFrame] | None
    paper: bool

    def drawings(self, study: Study) -> list[Drawing]:
        """Return what is drawn of a study, in the order of its panels."""
        if self.of == "study":
            return [Drawing(self, study, self.name, "", study.panels, bool(self.needs(study)))]
        if self.of == "panel":
            stem = f"{self.name}-"
            return [
                Drawing(self, panel, stem + panel.slug, panel.title, [panel], bool(self.needs(panel)))
                for panel in study.panels
            ]
        return [
            Drawing(self, group, f"{self.name}-{slug(title)}", title, group, any(map(self.needs, group)))
            for title, group in study.datasets.items()
        ]


@dataclass(frozen=True)
class Drawing:
    """One drawing of a figure: that of one panel, dataset or study."""

    entry: Entry
    of: Any  # the argument of the figure's function
    slug: str  # stem of the file names
    title: str  # of the panel or dataset; "" for the study
    panels: Sequence[Panel]  # the data that it shows
    drawn: bool  # False if the data lacks what the figure needs

    @property
    def alt(self) -> str:
        """The name of the drawing."""
        return f"{self.entry.title}, {self.title}" if self.title else self.entry.title

    @property
    def text(self) -> str:
        """The sentence about the drawing, "" for none."""
        return self.entry.text(self.of)


_FIGURES: registry.Registry[Entry] = registry.Registry("figure")


def figure(
    *,
    of: Literal["panel", "dataset", "study"],
    section: str,
    title: str,
    caption: str,
    order: int = 100,
    needs: Callable[[Any], object] = lambda data: data.recorded,
    text: Callable[[Any], str] = lambda data: "",
    table: Callable[[Any], pd.DataFrame] | None = None,
    paper: bool = False,
) -> Callable[[Draw], Draw]:
    """Register a figure under the name of its function, which also begins the names of its files.

    `of`
    : what the function takes: "panel" a `Panel`, "dataset" a list of the panels of one dataset and setting, "study" the
      `Study`

    `section`, `order`
    : the heading on the page under which the figure is shown; sections and figures are sorted by `order`

    `title`, `caption`
    : the name of what is drawn, below each drawing; an explanation of marks and axes, above all of them

    `needs`
    : a cheap test of a panel (of a study where `of` is "study") for data to draw; for a dataset one panel is enough

    `text`, `table`
    : functions of the same argument as the figure's: a sentence about the drawing ("" for none), and its numbers, which
      are saved beside the tables

    `paper`
    : whether the papers' page shows the figure, too
    """

    def register(draw: Draw) -> Draw:
        name = draw.__name__
        entry = Entry(name, draw, of, section, title, caption, order, needs, text, table, paper)
        _FIGURES.add(name, entry, registry.origin(draw))
        return draw

    return register


@cache
def figures() -> list[Entry]:
    """Return all figures in the order of the page; every module and extra file is imported once."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    for folder in registry.extra_folders("PBT_BENCH_FIGURES"):
        registry.load_folder(folder, "pbt_bench_figures")
    return sorted((entry for _, entry in _FIGURES.items()), key=lambda entry: entry.order)


def source(entry: Entry) -> str:
    """Return the source of the file that declares a figure."""
    return inspect.getsource(inspect.getmodule(entry.draw) or entry.draw)
