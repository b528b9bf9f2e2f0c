"""Statistics against numpy and published t quantiles; settings are never mixed; the sentences follow the numbers."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from pbt_bench.analysis.conclusions import sentences, verdicts
from pbt_bench.analysis.frame import frame
from pbt_bench.analysis.summary import panels, summarise
from pbt_bench.spec import Recipe, RunSpec

T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262}  # quantiles of Student's t, as printed in any table


def cell(record, method, sparsity, accuracies, **more):
    """Records of one method and sparsity, a seed for each accuracy."""
    spec = {"dataset": "digits", "model": "vgg8", "method": method, "sparsity": sparsity} | more
    return [record(RunSpec(seed=seed, **spec), accuracy=value) for seed, value in enumerate(accuracies)]


@pytest.mark.parametrize("degrees", T_975)
def test_mean_deviation_and_interval(record, degrees):
    values = np.random.default_rng(degrees).uniform(0.5, 0.9, degrees + 1)
    row = summarise(frame(cell(record, "snip", 0.9, values.tolist()))).loc[("snip", 0.9)]
    assert row["n"] == degrees + 1
    assert row["mean"] == pytest.approx(values.mean())
    assert row["std"] == pytest.approx(np.sqrt(((values - values.mean()) ** 2).sum() / degrees))
    assert row["half"] == pytest.approx(T_975[degrees] * values.std(ddof=1) / np.sqrt(degrees + 1), rel=3e-4)


def test_one_run_has_a_mean_and_no_interval(record):
    row = summarise(frame(cell(record, "snip", 0.9, [0.7]))).iloc[0]
    assert (row["n"], row["mean"]) == (1, 0.7)
    assert np.isnan(row["std"])
    assert np.isnan(row["half"])


def test_every_status_is_counted_and_diverged_and_collapsed_runs_enter_the_mean(record):
    specs = [RunSpec(dataset="d", model="m", method="snip", sparsity=0.9, seed=seed) for seed in range(5)]
    runs = [record(specs[0], accuracy=0.8), record(specs[1], "diverged", 0.2), record(specs[2], "collapsed", 0.1)]
    row = summarise(frame([*runs, record(specs[3], "failed"), specs[4]])).iloc[0]
    assert row["n"] == 3
    assert row["mean"] == pytest.approx((0.8 + 0.2 + 0.1) / 3)
    assert [row[name] for name in ("done", "diverged", "collapsed", "failed", "missing")] == [1] * 5


def test_different_settings_never_share_a_panel(grid, record):
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


def test_a_changed_recipe_is_another_setting_with_its_own_baseline(grid, record):
    runs = grid(model=("vgg8",), method=("snip",)).runs()
    other = [msgspec.structs.replace(spec, recipe=Recipe(epochs=2)) for spec in runs]
    found = panels(frame(map(record, runs + other)))
    assert [panel.setting for panel in found] == ["recipe.epochs 15", "recipe.epochs 2"]
    assert [set(panel.dense["epochs"]) for panel in found] == [{15}, {2}]


def test_names_that_differ_only_in_odd_characters_get_their_own_files(record):
    runs = [
        record(RunSpec(dataset="d", model=model, method="snip", sparsity=0.9, seed=0))
        for model in ("a/b", "a b", "../a")
    ]
    slugs = [panel.slug for panel in panels(frame(runs))]
    assert len(set(slugs)) == 3
    assert not any("/" in slug or slug.startswith(".") for slug in slugs)


def test_a_lead_is_clear_only_if_the_intervals_are_apart(record):
    runs = cell(record, "snip", 0.9, [0.90, 0.91, 0.92]) + cell(record, "fts", 0.9, [0.60, 0.61, 0.62])
    runs += cell(record, "snip", 0.98, [0.70, 0.80, 0.90]) + cell(record, "fts", 0.98, [0.71, 0.82, 0.93])
    runs += cell(record, "snip", 0.99, [0.5]) + cell(record, "fts", 0.99, [0.4])
    (panel,) = panels(frame(runs))
    found = verdicts(panel)
    assert [(v.sparsity, v.best, v.second, v.clear) for v in found] == [
        ("0.9", "snip", "fts", True),
        ("0.98", "fts", "snip", False),
        ("0.99", "snip", "fts", False),
    ]
    assert [v.why for v in found] == ["intervals apart", "intervals overlap", "one seed, no interval"]
    assert [v.lead for v in found] == ["30.00", "2.00", "10.00"]
    said = " ".join(sentences(panel, found))
    assert "snip at 0.9 and 0.99; fts at 0.98." in said
    assert "apart from the runner-up's at 0.9; elsewhere" in said


def test_equal_means_have_no_winner(record):
    (panel,) = panels(frame(cell(record, "snip", 0.9, [0.5, 0.6]) + cell(record, "fts", 0.9, [0.5, 0.6])))
    found = verdicts(panel)
    assert found[0].why == "tied"
    assert "no single method at 0.9" in sentences(panel, found)[0]


def test_the_last_sparsity_near_the_dense_network_is_named(record):
    runs = cell(record, "dense", 0.0, [0.95, 0.95]) + cell(record, "snip", 0.5, [0.945, 0.945])
    runs += cell(record, "snip", 0.9, [0.93, 0.93])
    (panel,) = panels(frame(runs))
    assert "(95.00 %) up to sparsity 0.5." in " ".join(sentences(panel, verdicts(panel)))
