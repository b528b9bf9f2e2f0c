"""Published numbers are matched to the cells of a study and drawn with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pbt_bench.analysis.figures import style
from pbt_bench.analysis.figures.compression import compression
from pbt_bench.analysis.figures.critical import critical, printed_critical
from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.records.published import Published, load_published
from pbt_bench.analysis.statistics.literature import matching_rows, recipe_differences, with_published
from pbt_bench.analysis.statistics.panel import Panel, panels
from pbt_bench.grid_file import load_grid
from pbt_bench.recipes import PRESETS
from pbt_bench.running.record import RunRecord
from pbt_bench.spec import Recipe, RunSpec

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "results/published"


@pytest.fixture(scope="module")
def published() -> Published:
    return load_published(FOLDER)


def panel_of(**fields: Any) -> Panel:
    spec: dict[str, Any] = {"dataset": "cifar100", "model": "vgg16-bias", "seed": 0}
    run = RunSpec(**(spec | fields))
    return panels(frame([run]).assign(method=run.variant))[0]


def test_the_paper_whose_recipe_is_nearest_stands_beside_a_study(published: Published) -> None:
    panel = panels(frame(load_grid(ROOT / "grids/fts_table1.toml").runs()))[0]
    rows = matching_rows(published, panel)
    assert len(rows) == 45
    assert set(rows["file"]) == {"fts_2025_table1"}, "SynFlow's ResNet-18 of another recipe does not mix in"
    said = recipe_differences(published, panel, rows)
    assert said[0].endswith("prints the mean top-1 accuracy."), "the study has the paper's own recipe"
    assert said[1].startswith("Published grasp: sign of the GraSP score inverted")


@pytest.mark.parametrize("sparsity", [1 - 10**-0.25, 0.4377, 0.43766])
def test_log_spaced_sparsities_match_as_they_are_rounded(published: Published, sparsity: float) -> None:
    rows = matching_rows(published, panel_of(method="snip", sparsity=sparsity))
    assert rows["sparsity"].tolist() == [0, sparsity]
    assert rows["statistic"].tolist() == ["final-epoch test top1"] * 2, "it goes before the maximum over epochs"


def test_a_study_that_records_the_best_epoch_is_beside_the_figure_that_prints_it(published: Published) -> None:
    for study, figure, cells in (("synflow_accuracy", "Fig6", 12), ("synflow_collapse", "Fig1", 24)):
        grid = load_grid(ROOT / f"grids/{study}.toml")
        panel = next(p for p in panels(frame(grid.runs())) if (p.dataset, p.model) == ("cifar100", "vgg16-bias"))
        rows = matching_rows(published, panel)
        assert rows["source"].str.contains(figure).all()
        assert rows["statistic"].str.startswith("max").all()
        assert rows["method"].eq("synflow").sum() == cells


def test_other_sparsities_methods_and_settings_match_nothing(published: Published) -> None:
    assert matching_rows(published, panel_of(method="snip", sparsity=0.4))["method"].tolist() == ["dense"]
    assert matching_rows(published, panel_of(method="fts", sparsity=0.9))["method"].tolist() == ["dense"]
    for change in ({"warmup": "1 epochs"}, {"model": "vgg16"}):
        assert matching_rows(published, panel_of(**({"method": "snip", "sparsity": 0.9} | change))).empty
    scoped = panel_of(method="snip", sparsity=0.9, scope="layer")
    assert matching_rows(published, scoped)["method"].tolist() == ["dense"], "its pruned rows are of one threshold"


@pytest.mark.parametrize(
    ("method", "scope", "equal"),
    [
        ("random_erk", "global", "random_erk"),
        ("random_erk", "erk", "random_erk"),
        ("random", "erk", "random_erk"),
        ("random", "er", "random_er"),
        ("random_uniform", "global", "random_layer"),
        ("random", "layer", "random_layer"),
        ("random", "global", None),
        ("random", "igq", None),
        ("snip", "global", "snip"),
        ("snip", "erk", None),
        ("random_igq", "global", None),
    ],
)
def test_published_layer_densities_equal_those_of_a_method_or_a_scope(
    published: Published, method: str, scope: str, equal: str | None
) -> None:
    rows = matching_rows(
        published, panel_of(dataset="cifar10", model="conv6", method=method, scope=scope, sparsity=0.9)
    )
    assert rows["published_method"].tolist() == ([equal] if equal else [])
    assert rows["method"].tolist() == ([method] if equal else [])


def test_mask_updates_match_the_dynamic_sparse_training_alone(published: Published) -> None:
    fields = {"dataset": "cifar10", "model": "conv6", "sparsity": 0.9}
    for updates, equal in (("none", "random_erk"), ("rigl", "rigl"), ("set", None)):
        panel = panel_of(method="random", scope="erk", mask_updates=updates, **fields)
        assert matching_rows(published, panel)["published_method"].tolist() == ([equal] if equal else [])
    rows = matching_rows(published, panel_of(method="rigl", **fields))
    assert rows[["published_method", "method"]].to_numpy().tolist() == [["rigl", "rigl"]]
    assert matching_rows(published, panel_of(method="snip", mask_updates="rigl", **fields)).empty


def test_each_model_is_compared_with_its_own_recipe(published: Published) -> None:
    for model, decay, preset in (("wrn-28-2", 5e-4, "-wrn"), ("resnet32-projection", 1e-4, "")):
        recipe = Recipe(**PRESETS[f"mge-snn-2024{preset}"].recipe | {"milestones": (80, 120)})
        panel = panel_of(dataset="cifar100", model=model, method="snip", sparsity=0.9, recipe=recipe, init="kaiming")
        assert recipe.weight_decay == decay
        said = recipe_differences(published, panel, matching_rows(published, panel))[0]
        assert "weight_decay" not in said
        assert "crops and flips the test images of CIFAR-100" in said


def test_mica_is_matched_by_the_weights_that_it_keeps(published: Published) -> None:
    specs = [
        RunSpec(dataset="cifar10", model="vgg16", method=method, sparsity=sparsity, seed=0)
        for method in ("mica", "random_igq")
        for sparsity in (0.99, 0.999683772)
    ]
    table = frame(specs)
    table["method"] = table["method"].replace("mica", "mica (layer_counts igq)")  # as `study_frame` does
    (panel,) = with_published(panels(table), published)
    assert panel.printed.groupby("method")["sparsity"].agg(list).to_dict() == {
        "mica (layer_counts igq)": [0.99],
        "random_igq": [0.99, 0.999683772],
    }, "its other masks have 18,000 times fewer weights than the network, not 3,162"
    effective = panel.printed_effective.groupby("method")["effective_compression"]
    assert effective.max().to_dict() == pytest.approx({"mica (layer_counts igq)": 17984.3963, "random_igq": 17984.3963})
    assert effective.size().to_dict() == {"mica (layer_counts igq)": 7, "random_igq": 7}, "of all sparsities"


def test_a_method_of_the_same_name_only_is_compared_where_it_is_the_same(published: Published) -> None:
    panel = panel_of(method="grasp", sparsity=0.9)
    rows = matching_rows(published, panel).set_index("method")
    assert rows["comparable"].to_dict() == {"dense": True, "grasp": False}
    assert recipe_differences(published, panel, matching_rows(published, panel))[1].endswith(
        "; it is comparable with sanity = 'invert' only."
    )
    panel = panel_of(method="grasp", sparsity=0.9, sanity="invert")
    rows = matching_rows(published, panel).set_index("method")
    assert rows["comparable"].to_dict() == {"dense": True, "grasp": True}
    assert "comparable" not in " ".join(recipe_differences(published, panel, rows.reset_index()))
    assert matching_rows(published, panel_of(method="snip", sparsity=0.9, sanity="invert"))["method"].tolist() == [
        "dense"
    ]


def test_the_dense_rows_of_a_paper_are_pooled(published: Published) -> None:
    row = matching_rows(published, panel_of(method="snip", sparsity=0.9)).iloc[0]
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
    (panel,) = with_published(panels(frame(map(record, specs))), published)
    rows = panel.printed[panel.printed["sparsity"] > 0]
    (axes,) = compression([panel]).axes
    (line,) = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert np.asarray(line.get_xdata()).tolist() == pytest.approx([1 / (1 - sparsity) for sparsity in sparsities])
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx(list(100 * rows["mean"]))
    first = rows.loc[rows["empty_layers"] > 0, "sparsity"].min()
    before = max(sparsity for sparsity in sparsities if sparsity < first)
    assert printed_critical(panel) == {"magnitude": before}
    (axes,) = critical([panel]).axes
    (bar,) = [line for line in axes.lines if line.get_marker() == "|"]
    assert np.asarray(bar.get_xdata()).tolist() == pytest.approx([style.position(before)])


def test_without_published_numbers_there_are_none(tmp_path: Path) -> None:
    assert matching_rows(load_published(tmp_path / "nothing"), panel_of(method="snip", sparsity=0.9)).empty
