"""Tests that every study file is valid and has the runs that its artefact needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbt_bench.errors import RequestError
from pbt_bench.grid_file import check_grid, load_grid
from pbt_bench.running.plan import check_names
from pbt_bench.spec import Grid

FOLDER = Path(__file__).parents[1] / "grids"
RUNS = {  # pruned and dense: datasets x models x (methods x sparsities x variants + 1) x seeds
    "digits": 2 * (6 * 7 + 1) * 3,
    "digits_upper_bounds": (3 * 4 * 3 + 1) * 3,  # no rewinding without a warm-up
    "fts_table1": (9 * 5 + 1) * 3,
    "fts_vgg19": (9 * 5 + 1) * 3,
    "fts_cifar100": 2 * (9 * 5 + 1) * 3,
    "fts_warmup": 2 * 2 * (9 * 5 * 2 + 1) * 3,
    "synflow_accuracy": 2 * 3 * (5 * 12 + 1) * 3,
    "synflow_accuracy_tiny": (5 * 12 + 1) * 3,
    "synflow_collapse": (5 * 24 + 1) * 3,
    "frankle_ablations": 2 * (4 * 9 * 4 + 1) * 5,
    "digits_baselines": 2 * (18 * 4 + 1) * 3,
    "mge_snn": 2 * 3 * (8 * 5 + 1) * 3,
    "mge_snn_wrn": 2 * (8 * 5 + 1) * 3,
    "mica_resnet20": 2 * (7 * 8 + 1) * 3,  # mica with two layer counts
    "mica_vgg16": 2 * (7 * 12 + 1) * 3,
    "mge_snn_mini": (8 * 3 + 1) * 3,
    "mge_snn_wrn_mini": (8 * 3 + 1) * 3,
    "mica_resnet20_mini": (7 * 5 + 1) * 3,
    "mica_vgg16_mini": (7 * 5 + 1) * 3,
    "fts_table1_mini": (9 * 5 + 1) * 3,
    "fts_vgg19_mini": (9 * 5 + 1) * 3,
    "fts_cifar100_mini": 2 * (9 * 3 + 1) * 3,
    "fts_warmup_mini": (5 * 3 * 2 + 1) * 3,
    "synflow_accuracy_mini": 2 * (5 * 6 + 1) * 3,
    "synflow_collapse_mini": (5 * 8 + 1) * 3,
    "frankle_ablations_mini": (4 * 4 * 4 + 1) * 3,
    "fmnist_sanity": (5 * 2 * 4 + 1) * 10,
    "fmnist_scoring_data": (3 * 2 * 4 + 1) * 10,
    "fmnist_hutchinson": ((3 * 2 + 5) * 4 + 1) * 10,
    "fmnist_lenet300": (37 * 7 + 1) * 10,
    "fmnist_lenet300_mini": (19 * 2 + 1) * 3,
    "fmnist_sanity_mini": (4 * 2 * 4 + 1) * 3,
    "fmnist_scoring_data_mini": (3 * 2 * 4 + 1) * 3,
    "fmnist_label_noise_mini": (5 + 1) * 3,
    "fmnist_hutchinson_mini": ((3 * 2 + 2) * 2 + 1) * 3,
    "fmnist_warmup_mini": (3 * 2 * 2 + 1) * 3,
    "fmnist_label_noise": (8 * 2 + 1) * 10,
    "fmnist_rounds_mini": (2 * 2 * 5 + 1) * 3,
    "fmnist_rounds": 2 * 2 * 5 * 12,
    "fmnist_warmup": 3 * 3 * 2 * 2 * 12,
    "fmnist_conv": (18 * 3 + 1) * 5,
    "fmnist_resnet": (18 * 3 + 1) * 5,
    "fmnist_conv_mini": (18 * 2 + 1) * 3,
    "fmnist_resnet_mini": (18 * 2 + 1) * 3,
    "fmnist_longer_mini": 8 * 2 * 3 + 3,
    "fmnist_longer": 8 * 2 * 5 + 5,
}


def study(name: str) -> Grid:
    path = FOLDER / f"{name}.toml"
    return check_names(load_grid(path), str(path))


def test_the_list_is_complete() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_a_study_has_its_runs(name: str) -> None:
    grid = study(name)
    assert grid.name == name, "results/NAME is found by the file's name"
    assert len(grid.runs()) == RUNS[name]
    assert (FOLDER / f"{name}.toml").read_text().startswith("# "), "the first line says what it is"


@pytest.mark.parametrize("name", [name for name in RUNS if name.endswith("_mini")])
def test_a_mini_version_varies_what_its_study_varies(name: str) -> None:
    small, large = study(name), study(name.removesuffix("_mini"))
    assert small.grid.dataset == ("digits",)
    assert set(small.grid.method) <= set(large.grid.method)
    for axis in ("sanity", "warmup", "rewind", "init", "scope"):
        assert getattr(small.grid, axis) == getattr(large.grid, axis)


def test_a_scope_that_a_method_would_not_heed_is_refused() -> None:
    table = {"name": "x", "grid": {"dataset": ["digits"], "model": ["resnet8"], "sparsity": [0.9], "seed": [0]}}
    for scopes, refused in ((["erk"], None), (["global"], None), (["global", "erk"], "global"), (["layer"], "layer")):
        table["grid"] |= {"method": ["snip", "random_erk"], "scope": scopes}
        if refused is None:
            check_names(check_grid(table, "x"), "x")
            continue
        with pytest.raises(RequestError, match=f"^x: scope = '{refused}' changes nothing for method 'random_erk'"):
            check_names(check_grid(table, "x"), "x")
