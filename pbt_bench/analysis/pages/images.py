"""The figures of a report as images, for other programs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pbt_bench.analysis.figures import figures
from pbt_bench.analysis.figures.style import pixels
from pbt_bench.analysis.records.published import published_beside
from pbt_bench.analysis.statistics.jaccard import mask_reader
from pbt_bench.analysis.statistics.study import assemble
from pbt_bench.running.store import Store


def report_images(table: pd.DataFrame, store: Store) -> dict[str, NDArray[np.uint8]]:
    """Draw the figures of the report of a study, and return them by file name as RGBA values, [height, width, 4]."""
    study = assemble(table, published_beside(store.folder.parent), mask_reader(store, table))
    drawings = [drawing for entry in figures() for drawing in entry.drawings(study) if drawing.drawn]
    return {drawing.slug: pixels(drawing.figure.draw(drawing.of)) for drawing in drawings}
