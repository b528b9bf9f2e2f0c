"""Figures, one file each, and the modules that they share.

A figure is a function with `@figure(...)` in a file of this folder, or of a folder in PBT_BENCH_FIGURES. It takes one
panel, the panels of a dataset, or the whole study, and returns a matplotlib figure. The report's page, the papers' page
and the documentation follow from its declaration.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, Literal, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from pbt_bench import registry
from pbt_bench.analysis.statistics.panel import Panel, slug
from pbt_bench.analysis.statistics.study import Study

Draw = TypeVar("Draw", bound=Callable[..., Figure])


@dataclass(kw_only=True)
class figure:  # a decorator
    """The declaration of a figure, registered under the name of its function, which begins the names of its files.

    `needs`, `text` and `table` are functions of what the figure's function takes; only `needs` takes a panel for a
    dataset, of which one panel is enough.
    """

    of: Literal["panel", "dataset", "study"]  # what the function takes: a `Panel`, all of a dataset, or the `Study`
    section: str  # heading on the page
    caption: str  # explanation of marks and axes, above the drawings
    title: str = ""  # name of a drawing, below it; that of the section by default
    order: int = 100  # position of the section, and of the figure in it
    needs: Callable[[Any], object] = lambda data: data.recorded  # a cheap test for data to draw
    text: Callable[[Any], str] = lambda data: ""  # sentences about one drawing, "" for none
    table: Callable[[Any], pd.DataFrame] | None = None  # the numbers of one drawing, saved beside the tables
    paper: bool = False  # shown on the papers' page, too
    masks: bool = False  # needs the stored masks, from which `overlaps` of a panel is computed
    name: str = field(init=False)
    draw: Callable[[Any], Figure] = field(init=False)

    def __call__(self, draw: Draw) -> Draw:
        """Register the figure that the decorated function draws."""
        self.name, self.draw, self.title = draw.__name__, draw, self.title or self.section
        _FIGURES.add(self.name, self, registry.origin(draw))
        return draw

    def drawings(self, study: Study) -> list[Drawing]:
        """Return the drawings of a study for which it has data or sentences, in the order of its panels."""
        if self.of == "study":
            found = [Drawing(self, study, self.name, "", study.panels, bool(self.needs(study)))]
        else:
            panels = [(panel, panel.slug, panel.title, [panel]) for panel in study.panels]
            datasets = [(group, slug(title), title, group) for title, group in study.datasets.items()]
            found = [
                Drawing(self, data, f"{self.name}-{stem}", title, group, any(map(self.needs, group)))
                for data, stem, title, group in (panels if self.of == "panel" else datasets)
            ]
        return [drawing for drawing in found if drawing.drawn or drawing.text]


@dataclass(frozen=True)
class Drawing:
    """One drawing of a figure: that of one panel, dataset or study."""

    figure: figure
    of: Any  # the argument of the figure's function
    slug: str  # stem of the file names
    part: str  # title of the panel or dataset; "" for the study
    panels: Sequence[Panel]  # the data that it shows
    drawn: bool  # False if the data lacks what the figure needs

    @property
    def title(self) -> str:
        """The name of the drawing."""
        return f"{self.figure.title}, {self.part}" if self.part else self.figure.title

    @property
    def text(self) -> str:
        """The sentences about the drawing, "" for none."""
        return self.figure.text(self.of)


_FIGURES: registry.Registry[figure] = registry.Registry("figure")


@cache
def figures() -> list[figure]:
    """Return all figures in the order of the page; every module and extra file is imported once."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    for folder in registry.extra_folders("PBT_BENCH_FIGURES"):
        registry.load_folder(folder, "pbt_bench_figures")
    return sorted((entry for _, entry in _FIGURES.items()), key=lambda entry: entry.order)


def source(entry: figure) -> str:
    """Return the source of the file that declares a figure."""
    return inspect.getsource(inspect.getmodule(entry.draw) or entry.draw)
