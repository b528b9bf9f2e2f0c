"""Test of the figures as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pbt_bench.analysis.figures import figures
from pbt_bench.analysis.pages import images
from pbt_bench.analysis.records.data_frame import study_frame
from pbt_bench.grid_file import load_grid
from pbt_bench.running.store import Store

ROOT = Path(__file__).parents[3]


def test_figures_are_arrays_by_the_names_of_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [entry for entry in figures() if entry.name in ("critical", "variants")]  # the study has no variants
    monkeypatch.setattr(images, "figures", lambda: few)
    store = Store(ROOT / "results/fts_table1_mini")
    table = study_frame(load_grid(ROOT / "grids/fts_table1_mini.toml").runs(), store)
    ((name, image),) = images.report_images(table, store).items()
    assert name == "critical-digits"
    assert image.dtype == np.uint8
    assert image.shape[2] == 4
    assert np.ptp(image) == 255
