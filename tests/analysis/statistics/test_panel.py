"""Statistics against numpy and published t quantiles; settings are never mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.statistics.panel import panels, summarise
from pbt_bench.running.record import RunRecord
from pbt_bench.spec import Grid, Recipe, RunSpec

T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262}  # quantiles of Student's t, as printed in any table


def cell(
    record: Callable[..., RunRecord], method: str, sparsity: float, accuracies: Sequence[float], **more: Any
) -> list[RunRecord]:
    """Records of one method and sparsity, a seed for each accuracy."""
    spec: dict[str, Any] = {"dataset": "digits", "model": "vgg8", "method": method, "sparsity": sparsity} | more
    return [record(RunSpec(seed=seed, **spec), accuracy=value) for seed, value in enumerate(accuracies)]


@pytest.mark.parametrize("degrees", T_975)
def test_mean_deviation_and_interval(record: Callable[..., RunRecord], degrees: int) -> None:
    values = np.random.default_rng(degrees).uniform(0.5, 0.9, degrees + 1)
    row = summarise(frame(cell(record, "snip", 0.9, values.tolist()))).loc[("snip", 0.9)]
    assert row["n"] == degrees + 1
    assert row["mean"] == pytest.approx(values.mean())
    assert row["std"] == pytest.approx(np.sqrt(((values - values.mean()) ** 2).sum() / degrees))
    assert row["half"] == pytest.approx(T_975[degrees] * values.std(ddof=1) / np.sqrt(degrees + 1), rel=3e-4)


def test_one_run_has_a_mean_and_no_interval(record: Callable[..., RunRecord]) -> None:
    row = summarise(frame(cell(record, "snip", 0.9, [0.7]))).iloc[0]
    assert (row["n"], row["mean"]) == (1, 0.7)
    assert np.isnan(row["std"])
    assert np.isnan(row["half"])


def test_every_status_is_counted_and_diverged_and_collapsed_runs_enter_the_mean(
    record: Callable[..., RunRecord],
) -> None:
    specs = [RunSpec(dataset="d", model="m", method="snip", sparsity=0.9, seed=seed) for seed in range(5)]
    runs = [record(specs[0], accuracy=0.8), record(specs[1], "diverged", 0.2), record(specs[2], "collapsed", 0.1)]
    row = summarise(frame([*runs, record(specs[3], "failed"), specs[4]])).iloc[0]
    assert row["n"] == 3
    assert row["mean"] == pytest.approx((0.8 + 0.1 + 0.1) / 3), "both count at chance accuracy, 0.1"
    assert [row[name] for name in ("done", "diverged", "collapsed", "failed", "missing")] == [1] * 5


def test_different_settings_never_share_a_panel(grid: Callable[..., Grid], record: Callable[..., RunRecord]) -> None:
    found = panels(
        frame(map(record, grid(model=("vgg8",), scope=("global", "erk"), sanity=("none", "shuffle")).runs()))
    )
    assert [panel.setting for panel in found] == [
        "scope global, sanity none",
        "scope global, sanity shuffle",
        "scope erk, sanity none",
        "scope erk, sanity shuffle",
    ]
    for panel in found:
        assert panel.runs.groupby(["method", "sparsity", "seed"]).size().max() == 1
        assert len(panel.dense) == 3
    assert len({panel.slug for panel in found}) == 4


def test_a_changed_recipe_is_another_setting_with_its_own_baseline(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    runs = grid(model=("vgg8",), method=("snip",)).runs()
    other = [msgspec.structs.replace(spec, recipe=Recipe(epochs=2)) for spec in runs]
    found = panels(frame(map(record, runs + other)))
    assert [panel.setting for panel in found] == ["recipe.epochs 15", "recipe.epochs 2"]
    assert [set(panel.dense["epochs"]) for panel in found] == [{15}, {2}]


def test_a_setting_may_be_described_beside_the_commonest_of_its_network(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    runs = grid(model=("vgg8", "resnet8"), method=("snip", "fts")).runs()
    few = [spec for spec in runs if spec.model == "vgg8" and spec.method == "snip"]
    other = [msgspec.structs.replace(spec, sanity="shuffle", recipe=Recipe(epochs=2)) for spec in few]
    found = panels(frame(map(record, other + runs)), beside_commonest=True)
    assert sorted((panel.model, panel.setting) for panel in found) == [
        ("resnet8", ""),
        ("vgg8", ""),
        ("vgg8", "sanity shuffle, recipe.epochs 2"),
    ]


def test_names_that_differ_only_in_odd_characters_get_their_own_files(record: Callable[..., RunRecord]) -> None:
    runs = [
        record(RunSpec(dataset="d", model=model, method="snip", sparsity=0.9, seed=0))
        for model in ("a/b", "a b", "../a")
    ]
    slugs = [panel.slug for panel in panels(frame(runs))]
    assert len(set(slugs)) == 3
    assert not any("/" in slug or slug.startswith(".") for slug in slugs)
