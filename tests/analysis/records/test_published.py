"""Published numbers: read whole, matched to cells, damaged files named; missing runs are listed with their time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pbt_bench.analysis.figures import style
from pbt_bench.analysis.figures.compression import compression_figure
from pbt_bench.analysis.figures.critical import critical_figure, printed_critical
from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.records.published import Published, beside, differences, load_published, matching
from pbt_bench.analysis.statistics.missing import missing_runs, time_left
from pbt_bench.analysis.statistics.panel import Panel, panels
from pbt_bench.errors import RequestError
from pbt_bench.grid_file import load_grid
from pbt_bench.running.record import RunRecord
from pbt_bench.spec import Grid, RunSpec

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "results/published"
HEAD = "paper,dataset,model,method,sparsity,top1_mean,top1_std,n_runs,note\n"
ABOUT = 'recipe = "fts-2025"\ninit = "default"\nstatistic = "mean"\n[models]\nm = "vgg8"\n[left_out]\no = "odd"\n'
ROW = "P,digits,m,snip,0.9,90,1,3,\n"


@pytest.fixture(scope="module")
def published() -> Published:
    return load_published(FOLDER)


def panel_of(**fields: Any) -> Panel:
    spec: dict[str, Any] = {"dataset": "cifar100", "model": "vgg16-bias", "seed": 0}
    return panels(frame([RunSpec(**(spec | fields))]))[0]


def test_every_row_of_both_papers_is_there(published: Published) -> None:
    rows = published.rows
    assert rows["file"].value_counts().to_dict() == {"synflow_2020": 1030, "fts_2025_table1": 45}
    assert (rows["source"] != "").all()
    assert set(rows["method"]) >= {"dense", "random", "snip", "grasp", "synflow", "fts", "fbss"}
    grasp = rows[(rows["method"] == "grasp") & rows["model"].notna()]
    assert grasp["note"].str.contains("sign of the GraSP score inverted").all()
    assert rows.loc[rows["model"].isna(), "note"].ne("").all(), "rows without a model here say why"
    row = rows[(rows["method"] == "fts") & (rows["sparsity"] == 0.98)].squeeze()
    assert (row["mean"], row["std"], row["n"]) == (pytest.approx(0.8724), pytest.approx(0.0032), 3)


def test_the_paper_whose_recipe_is_nearest_stands_beside_a_study(published: Published) -> None:
    panel = panels(frame(load_grid(ROOT / "grids/fts_table1.toml").runs()))[0]
    rows = matching(published, panel)
    assert len(rows) == 45
    assert set(rows["file"]) == {"fts_2025_table1"}, "SynFlow's ResNet-18 of another recipe does not mix in"
    said = differences(published, panel, rows)
    assert said[0].endswith("prints the mean top-1 accuracy."), "the study has the paper's own recipe"
    assert said[1].startswith("Published grasp: sign of the GraSP score inverted")


@pytest.mark.parametrize("sparsity", [1 - 10**-0.25, 0.4377, 0.43766])
def test_log_spaced_sparsities_match_as_they_are_rounded(published: Published, sparsity: float) -> None:
    rows = matching(published, panel_of(method="snip", sparsity=sparsity))
    assert rows["sparsity"].tolist() == [0, sparsity]
    assert rows["statistic"].tolist() == ["final-epoch test top1"] * 2, "it goes before the maximum over epochs"


def test_a_study_that_records_the_best_epoch_is_beside_the_figure_that_prints_it(published: Published) -> None:
    for study, figure, cells in (("synflow_accuracy", "Fig6", 12), ("synflow_collapse", "Fig1", 24)):
        grid = load_grid(ROOT / f"grids/{study}.toml")
        panel = next(p for p in panels(frame(grid.runs())) if (p.dataset, p.model) == ("cifar100", "vgg16-bias"))
        rows = matching(published, panel)
        assert rows["source"].str.contains(figure).all()
        assert rows["statistic"].str.startswith("max").all()
        assert rows["method"].eq("synflow").sum() == cells


def test_other_sparsities_methods_and_settings_match_nothing(published: Published) -> None:
    assert matching(published, panel_of(method="snip", sparsity=0.4))["method"].tolist() == ["dense"]
    assert matching(published, panel_of(method="fts", sparsity=0.9))["method"].tolist() == ["dense"]
    for change in ({"warmup": "1 epochs"}, {"scope": "layer"}, {"model": "vgg16"}):
        assert matching(published, panel_of(**({"method": "snip", "sparsity": 0.9} | change))).empty


def test_a_method_of_the_same_name_only_is_compared_where_it_is_the_same(published: Published) -> None:
    panel = panel_of(method="grasp", sparsity=0.9)
    rows = matching(published, panel).set_index("method")
    assert rows["comparable"].to_dict() == {"dense": True, "grasp": False}
    assert differences(published, panel, matching(published, panel))[1].endswith(
        "; it is comparable with sanity = 'invert' only."
    )
    panel = panel_of(method="grasp", sparsity=0.9, sanity="invert")
    rows = matching(published, panel).set_index("method")
    assert rows["comparable"].to_dict() == {"dense": True, "grasp": True}
    assert "comparable" not in " ".join(differences(published, panel, rows.reset_index()))
    assert matching(published, panel_of(method="snip", sparsity=0.9, sanity="invert"))["method"].tolist() == ["dense"]


def test_the_dense_rows_of_a_paper_are_pooled(published: Published) -> None:
    row = matching(published, panel_of(method="snip", sparsity=0.9)).iloc[0]
    own = published.rows
    own = own[(own["model"] == "vgg16-bias") & (own["dataset"] == "cifar100") & (own["sparsity"] == 0)]
    own = own[own["statistic"] == "final-epoch test top1"]
    assert row["n"] == 15
    assert row["mean"] == pytest.approx(own["mean"].mean())
    squares = (2 * own["std"] ** 2 + 3 * (own["mean"] - own["mean"].mean()) ** 2).sum()
    assert row["std"] == pytest.approx(np.sqrt(squares / 14))


def test_figures_draw_the_rows_beside_the_runs(published: Published, record: Callable[..., RunRecord]) -> None:
    sparsities = (0.9, 0.99, 0.9968377, 0.999, 0.9996838)
    specs = [
        RunSpec(dataset="cifar100", model="vgg16-bias", seed=0, method="magnitude", sparsity=sparsity)
        for sparsity in sparsities
    ]
    (panel,) = beside(panels(frame(map(record, specs))), published)
    rows = panel.printed[panel.printed["sparsity"] > 0]
    (axes,) = compression_figure([panel]).axes
    (line,) = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert np.asarray(line.get_xdata()).tolist() == pytest.approx([1 / (1 - sparsity) for sparsity in sparsities])
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx(list(100 * rows["mean"]))
    first = rows.loc[rows["empty_layers"] > 0, "sparsity"].min()
    before = max(sparsity for sparsity in sparsities if sparsity < first)
    assert printed_critical(panel) == {"magnitude": before}
    (axes,) = critical_figure([panel]).axes
    (bar,) = [line for line in axes.lines if line.get_marker() == "|"]
    assert np.asarray(bar.get_xdata()).tolist() == pytest.approx([style.position(before)])


@pytest.mark.parametrize(
    ("text", "about", "message"),
    [
        (HEAD.replace(",top1_mean", "") + ROW, ABOUT, "x.csv: no column top1_mean"),
        (HEAD + ROW.replace("90", "nine"), ABOUT, "x.csv, line 2: top1_mean = 'nine' must be a number from 0 to 100"),
        (HEAD + ROW.replace("90", "nan"), ABOUT, "x.csv, line 2: top1_mean = 'nan' must be"),
        (HEAD + ROW.replace("0.9,", "1.9,"), ABOUT, "line 2: sparsity = '1.9' must be a number from 0 to 1"),
        (HEAD + ROW.replace(",3,", ",0,"), ABOUT, "n_runs = '0' must be a number from 1"),
        (HEAD + ROW.replace(",m,", ",z,"), ABOUT, "line 2: unknown model 'z'"),
        (HEAD + ROW.replace("digits", ""), ABOUT, "a row needs a dataset and a method"),
        (HEAD + ROW + "P,digits\n", ABOUT, "line 3: more or fewer fields than columns"),
        (HEAD + ROW + ROW, ABOUT, "data rows 1 and 2 are of the same cell"),
        (HEAD + ROW + '"open', ABOUT, "not a csv file"),
        ("\0\0", ABOUT, "x.csv"),
        (HEAD + ROW, None, "x.toml: cannot be read: No such file"),
        (HEAD + ROW, "recipe = 1", "x.toml"),
        (HEAD + ROW, ABOUT.replace("fts-2025", "fts-25"), "unknown recipe 'fts-25'; did you mean 'fts-2025'"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path, text: str, about: str | None, message: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    if about:
        (tmp_path / "x.toml").write_text(about)
    with pytest.raises(RequestError) as caught:
        load_published(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_published_numbers_there_are_none(tmp_path: Path) -> None:
    assert matching(load_published(tmp_path / "nothing"), panel_of(method="snip", sparsity=0.9)).empty


def test_missing_runs_are_listed_with_their_time(grid: Callable[..., Grid], record: Callable[..., RunRecord]) -> None:
    specs = grid(model=("vgg8",), method=("snip", "fts"), sparsity=(0.9, 0.98)).runs()
    lacking = {spec for spec in specs if spec.method == "fts"} | {specs[0], specs[1]}
    runs = [spec if spec in lacking else record(spec) for spec in specs]
    assert missing_runs(frame(runs)) == [
        "digits / vgg8, dense: 1 of 3: 0 seed 0",
        "digits / vgg8, snip: 1 of 6: 0.9 seed 0",
        "digits / vgg8, fts: 6 of 6",
    ]
    timed = [spec if spec in lacking else record(spec, environment={"seconds": 10.0}) for spec in specs]
    assert time_left(specs, frame(timed)) == (
        "They take one worker about 1 min 20 s, judged by the 7 runs measured so far."
    )
    assert time_left(specs, frame(specs)).startswith("How long they take is not known")
    assert time_left(specs, frame(map(record, specs))) == ""
