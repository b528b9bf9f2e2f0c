"""Figures of a data frame of `load_results`, by their names: `pbt_bench.plot.accuracy(frame)`.

Every figure of a report is a function of this module, and so are those of a folder in PBT_BENCH_FIGURES. It takes the
frame, a selection of its rows, or either one read from a file, and returns the figures of all panels, datasets or the
study. A notebook shows them; each one is a `matplotlib.figure.Figure`.

Raise RequestError if the frame lacks what the figure needs.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import figure, figures
from pbt_bench.analysis.figures.style import svg
from pbt_bench.analysis.records.nested import as_objects
from pbt_bench.analysis.records.published import published_beside
from pbt_bench.analysis.statistics.jaccard import mask_reader
from pbt_bench.analysis.statistics.study import Study, assemble
from pbt_bench.errors import RequestError
from pbt_bench.running.store import Store
from pbt_bench.spec import variant_name


class Figures(list[Figure]):
    """The figures of one call, in the order of their panels."""

    def _repr_html_(self) -> str:
        """Return the figures as images, which a notebook shows one below the other."""
        images = [b64encode(svg(each)).decode() for each in self]
        return "".join(f'<img src="data:image/svg+xml;base64,{image}"><br>' for image in images)


def __getattr__(name: str) -> Callable[[pd.DataFrame], Figures]:
    if not name.startswith("_"):
        for entry in figures():
            if entry.name == name:
                function = partial(_draw, entry)
                function.__doc__ = f"{entry.draw.__doc__}\n\n{entry.caption}"
                return function
    raise AttributeError(f"module 'pbt_bench.plot' has no figure {name!r}: {', '.join(__dir__())}")


def __dir__() -> list[str]:
    return [entry.name for entry in figures()]


def _draw(entry: figure, frame: pd.DataFrame) -> Figures:
    drawings = entry.drawings(_study(frame, entry.masks))
    found = Figures(drawing.figure.draw(drawing.of) for drawing in drawings if drawing.drawn)
    if not found:
        masks = " The masks of a results folder are needed." if entry.masks else ""
        raise RequestError(f"figure {entry.name!r}: the frame of {len(frame)} runs lacks its data.{masks}")
    return found


def _study(frame: pd.DataFrame, masks: bool) -> Study:
    """Divide the runs of a frame into panels, with the masks and published numbers beside its results folder."""
    table = as_objects(frame)
    fields = (table[name] for name in ("method", "options", "mask_updates", "update_options"))
    table = table.assign(method=[variant_name(*values) for values in zip(*fields, strict=True)])
    folder = Path(frame.attrs.get("folder", "results/unknown"))
    read = mask_reader(Store(folder), table) if masks else lambda run_id: None
    return assemble(table, published_beside(folder.parent), read)
