"""Sections of a report's page: the figures, by the headings that they declare, and the page's own parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pbt_bench.analysis.figures import Drawing, figure, figures
from pbt_bench.analysis.pages.gallery import Gallery, Picture
from pbt_bench.analysis.pages.table_files import spreadsheet
from pbt_bench.analysis.statistics.study import Study

_PIXELS_OF_COLUMN = 360  # CSS pixels: a little more than the width of a figure of one column


@dataclass
class Section:
    """A heading with figures, each with its drawings, followed by the template `part` ("" for none)."""

    heading: str
    order: int
    part: str = ""
    figures: list[tuple[figure, list[tuple[Drawing, Picture | None]]]] = field(default_factory=list)

    @property
    def narrow(self) -> bool:
        """True if the section is one figure of one column's width, which the page shows beside another."""
        drawings = [drawing for _, drawings in self.figures for drawing in drawings]
        plain = not self.part and len(self.figures) == 1 and not any(drawing.text for drawing, _ in drawings)
        return plain and all(picture and picture.size[0] <= _PIXELS_OF_COLUMN for _, picture in drawings)


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
