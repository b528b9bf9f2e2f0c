"""Options as axes of a study: lines of figures, and the figure over the values of an option."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from pbt_bench.analysis.figures.option_values import numeric_options, option_values
from pbt_bench.analysis.records.data_frame import study_frame
from pbt_bench.analysis.statistics.method_styles import method_order
from pbt_bench.analysis.statistics.panel import Panel, panels
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import Grid

VALUES = (1.0, 10.0, 100.0)


def panel(
    folder: Path,
    grid: Callable[..., Grid],
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
    **changes: object,
) -> Panel:
    options = {"grasp": ({}, *({"temperature": value} for value in VALUES), {"mode": "a"}, {"mode": "b"})}
    study = msgspec.structs.replace(
        grid(model=("vgg8",), method=("grasp", "snip"), sparsity=(0.5, 0.9)), options=options
    )
    runs = study.runs()
    store = stored(folder, [record(run, accuracy=0.2 + 0.001 * run.options.get("temperature", 200)) for run in runs])
    return panels(study_frame(runs, store))[0]


def test_a_numeric_option_is_an_axis_and_every_value_is_a_line(
    tmp_path: Path,
    grid: Callable[..., Grid],
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> None:
    made = panel(tmp_path, grid, record, stored)
    names = [f"grasp (temperature {value:g})" for value in VALUES]
    assert made.methods == ["snip", "grasp", "grasp (mode a)", "grasp (mode b)", *names]
    assert numeric_options(made) == {("grasp", "temperature"): dict(zip(VALUES, names, strict=True))}
    (axes,) = option_values(made).axes
    first, second = (line for line in axes.lines if line.get_marker() == "o")
    default = next(line for line in axes.lines if line.get_linestyle() == ":")
    for line in (first, second):
        assert list(np.asarray(line.get_xdata())) == pytest.approx(VALUES)
        assert list(np.asarray(line.get_ydata())) == pytest.approx([20.1, 21, 30])
    assert list(np.asarray(default.get_ydata())) == pytest.approx([40, 40])
    assert axes.get_xscale() == "log"


def test_options_are_sorted_by_their_values() -> None:
    names = ["own (a 10, b 1)", "own (a 9, b 2)", "snip", "own", "fts (x 0.1)", "fts", "own (a 9, b 1)"]
    assert method_order(names) == [
        "snip",
        "fts",
        "fts (x 0.1)",
        "own",
        "own (a 9, b 1)",
        "own (a 9, b 2)",
        "own (a 10, b 1)",
    ]
