"""Figures of a data frame in one call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

import pbt_bench
from pbt_bench.analysis.figures import figures
from pbt_bench.errors import RequestError

RESULTS = Path(__file__).parents[1] / "results" / "fts_table1_mini"
ABSENT = ("accuracy_and_mask_metrics", "option_values", "variants")  # the study has no data for them


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return pbt_bench.load_results(RESULTS)


@pytest.mark.parametrize("name", [entry.name for entry in figures()])
def test_every_figure_of_a_report_is_a_function_of_a_frame(runs: pd.DataFrame, name: str) -> None:
    few = runs[runs["method"].isin(["dense", "snip", "fts"]) & runs["sparsity"].isin([0.0, 0.8, 0.99])]
    if name in ABSENT:
        with pytest.raises(RequestError, match=f"figure '{name}': the frame of 15 runs lacks its data"):
            getattr(pbt_bench.plot, name)(few)
    else:
        (drawn,) = getattr(pbt_bench.plot, name)(few)
        assert isinstance(drawn, Figure)


def test_a_frame_that_was_saved_gives_the_same_figures(runs: pd.DataFrame, tmp_path: Path) -> None:
    runs.to_parquet(tmp_path / "runs.parquet")
    found = pd.read_parquet(tmp_path / "runs.parquet")
    pictures = [pbt_bench.plot.critical(frame)._repr_html_() for frame in (runs, found)]
    assert pictures[0] == pictures[1]
    assert pictures[0].count("<img ") == 1


def test_a_wrong_name_is_answered_with_the_names() -> None:
    with pytest.raises(AttributeError, match="no figure 'acuracy': accuracy, compression"):
        pbt_bench.plot.acuracy  # noqa: B018
    assert dir(pbt_bench.plot) == sorted(entry.name for entry in figures())


def test_importing_the_package_imports_no_library() -> None:
    code = (
        "import sys, pbt_bench, pbt_bench.cli; print({'pandas', 'matplotlib', 'seaborn', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
