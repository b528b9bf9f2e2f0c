"""Sections of a report's page: the figures, by the headings that they declare, and the page's own parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pbt_bench.analysis.figures import Drawing, figure, figures
from pbt_bench.analysis.pages.gallery import Gallery, Picture
from pbt_bench.analysis.pages.table_files import spreadsheet
from pbt_bench.analysis.statistics.study import Study

FIRST = ("Accuracy against sparsity", "Accuracy tables")  # the answer: always open, and first on the page
LAST = "All runs"  # open, too


@dataclass
class Section:
    """A heading with figures, each with its drawings, followed by the template `part` ("" for none)."""

    heading: str
    order: int
    part: str = ""
    figures: list[tuple[figure, list[tuple[Drawing, Picture | None]]]] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """True if the page shows the section without a click."""
        return self.heading in (*FIRST, LAST)


def sections(study: Study, gallery: Gallery, tables: Path, parts: Mapping[str, tuple[int, str]]) -> list[Section]:
    """Register all drawings in `gallery`, save their tables in the folder `tables`, and return the page's sections.

    `parts` has the order and the template of the page's own parts by heading.
    """
    found = {heading: Section(heading, *part) for heading, part in parts.items()}
    for entry in figures():
        drawings = entry.drawings(study)
        if drawings:
            section = found.setdefault(entry.section, Section(entry.section, entry.order))
            section.figures.append((entry, [(each, gallery.picture(each)) for each in drawings]))
        for drawing in drawings:
            if entry.table and drawing.drawn:
                tables.mkdir(parents=True, exist_ok=True)
                spreadsheet(entry.table(drawing.of)).to_csv(tables / f"{drawing.slug}.csv", index=False)
    return sorted(found.values(), key=lambda section: section.order)
