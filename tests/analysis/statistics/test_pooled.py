"""Pooled comparisons against scipy and cases worked out by hand; the figure draws what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pbt_bench.analysis.figures.pooled_differences import pooled_differences
from pbt_bench.analysis.figures.style import save
from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.statistics.effects import effect
from pbt_bench.analysis.statistics.panel import Panel, panels
from pbt_bench.analysis.statistics.pooled import Pooled, pool, pooled_sentences
from pbt_bench.analysis.statistics.study import Study
from pbt_bench.running.record import RunRecord
from pbt_bench.spec import Grid, RunSpec

METHODS = ("snip", "fts", "synflow")


def study(record: Callable[..., RunRecord], values: np.ndarray, models: Sequence[str] = ("m", "n")) -> list[Panel]:
    """Return panels of accuracies (models, seeds, sparsities, methods); a NaN is a missing run."""
    runs = []
    for (model, seed, sparsity, method), value in np.ndenumerate(values):
        spec = RunSpec(
            dataset="d", model=models[model], method=METHODS[method], sparsity=0.5 + sparsity / 10, seed=seed
        )
        runs.append(spec if np.isnan(value) else record(spec, accuracy=float(value)))
    return panels(frame(runs))


def test_of_one_network_it_is_the_paired_t_test_of_means_over_sparsities(record: Callable[..., RunRecord]) -> None:
    values = np.random.default_rng(0).normal(0.8, 0.02, (1, 5, 4, 3))
    values[..., 0] += 0.03
    found = pool(study(record, values))
    means = values[0].mean(axis=1)
    assert (found.settings, found.replicates) == (4, 5)
    assert found.means["snip"] == pytest.approx(means[:, 0].mean())
    pairs = found.pairs.set_index(["method_a", "method_b"])
    for a, b in pairs.index:
        first, second = (means[:, METHODS.index(name)] for name in (a, b))
        row, test = pairs.loc[(a, b)], stats.ttest_rel(first, second)
        assert row["p"] == pytest.approx(test.pvalue)
        assert (row["low"], row["high"]) == pytest.approx(tuple(test.confidence_interval()))


def test_networks_are_strata_with_a_spread_of_their_own(record: Callable[..., RunRecord]) -> None:
    """Compare with Welch's test: a + b = 0 for the means of two networks is a = -b."""
    values = np.random.default_rng(1).normal(0.8, 0.02, (2, 3, 2, 2))
    values[1] = 0.8 + 3 * (values[1] - 0.8)
    found = pool(study(record, values))
    gaps = (values[..., 0] - values[..., 1]).mean(axis=2)  # (networks, seeds)
    test = stats.ttest_ind(gaps[0], -gaps[1], equal_var=False)
    [row] = found.pairs.to_dict("records")
    sign = 1 if row["method_a"] == "snip" else -1
    assert row["difference"] == pytest.approx(sign * gaps.mean())
    assert row["p"] == pytest.approx(test.pvalue)
    interval = test.confidence_interval()
    assert row["high"] - row["low"] == pytest.approx((interval.high - interval.low) / 2)


@pytest.mark.parametrize("alone", [[0.01], [0.01, 0.02]])
def test_a_network_with_one_seed_has_the_largest_spread_of_the_others(alone: list[float]) -> None:
    narrow, wide = np.array([0.1, 0.101, 0.102]), np.array([0.1, 0.2, 0.3])
    found = effect([narrow, wide, *(np.array([value]) for value in alone)])
    count = 2 + len(alone)
    assert found.error == pytest.approx(
        np.sqrt(narrow.var(ddof=1) / 3 + wide.var(ddof=1) * (1 / 3 + len(alone))) / count
    )
    assert found.freedom == pytest.approx(2, rel=1e-3)
    assert found.mean == pytest.approx((0.101 + 0.2 + sum(alone)) / count)


def test_only_whole_sparsities_and_seeds_count(record: Callable[..., RunRecord]) -> None:
    values = np.random.default_rng(2).normal(0.8, 0.02, (2, 4, 3, 3))
    values[0, :, 2, 1] = np.nan  # no run of fts at the third sparsity of the first network
    values[1, 3, 0, 2] = np.nan  # one seed of synflow lacks in the second
    found = pool(study(record, values))
    assert (found.settings, found.replicates) == (5, 7)
    expected = (values[0, :, :2, 1].mean() + values[1, :3, :, 1].mean()) / 2
    assert found.means["fts"] == pytest.approx(expected)


def test_a_method_under_a_sanity_check_is_not_pooled_with_the_methods(record: Callable[..., RunRecord]) -> None:
    runs = [
        record(
            RunSpec(dataset="d", model="m", method=method, sparsity=0.9, seed=0, sanity=sanity), accuracy=accuracy
        )
        for method, sanity, accuracy in (
            ("a", "none", 0.9), ("b", "none", 0.8), ("a", "invert", 0.1), ("b", "invert", 0.7),
        )
    ]  # fmt: skip
    assert pool(panels(frame(runs))).means.to_dict() == {"a": 0.9, "b": 0.8}
    assert pool(panels(frame(runs[2:]))).means.to_dict() == {"b": 0.7, "a": 0.1}, "there is nothing else"


def made(apart: list[str], names: Sequence[str] = "abcd") -> Pooled:
    """Means 0.9, 0.8, … with these pairs separated."""
    pairs = [
        (a, b, 0.1, 0.05, 0.15, 0.01 if a + b in apart else 0.5) for i, a in enumerate(names) for b in names[i + 1 :]
    ]
    table = pd.DataFrame(pairs, columns=["method_a", "method_b", "difference", "low", "high", "p_holm"])
    return Pooled(pd.Series({name: 0.9 - 0.1 * i for i, name in enumerate(names)}), 9, 6, table)


def with_pooled(found: Pooled) -> Study:
    study = Study([])
    study.__dict__["pooled"] = found
    return study


@pytest.mark.parametrize(
    ("apart", "letters"),
    [
        ([], "a a a a"),
        (["ad"], "a ab ab b"),
        (["ab", "ac", "ad"], "a b b b"),
        (["ab", "ac", "ad", "bc", "bd", "cd"], "a b c d"),
        (["bc", "ad", "ac", "bd"], "a a b b"),
        (["ab"], "a b ab ab"),  # neighbours are separated, those further apart are not: no row of bars shows this
        (["ab", "cd"], "ab cd ac bd"),
    ],
)
def test_methods_share_a_letter_exactly_if_they_are_not_separated(apart: list[str], letters: str) -> None:
    found = made(apart)
    given = found.letters
    assert " ".join(given.values()) == letters
    for row in found.pairs.to_dict("records"):
        shared = set(given[row["method_a"]]) & set(given[row["method_b"]])
        assert bool(shared) == (row["p_holm"] >= 0.05)
    (axes,) = pooled_differences(with_pooled(found)).axes
    assert [text.get_text() for text in axes.texts] == letters.split()


def test_a_long_name_is_cut_and_leaves_space_for_the_axis(tmp_path: Path) -> None:
    figure = pooled_differences(with_pooled(made([], ["a" * 100, "b" * 100])))
    save(figure, tmp_path / "pooled")
    (axes,) = figure.axes
    assert len(axes.get_yticklabels()[0].get_text()) < 40
    assert axes.get_position().width > 0.2
    assert figure.get_figwidth() == 3.5


def test_the_sentences_name_what_is_separated(record: Callable[..., RunRecord]) -> None:
    values = np.random.default_rng(3).normal(0.8, 0.005, (2, 5, 2, 3)) + np.array([0.1, 0.0, 0.0])
    said = " ".join(pooled_sentences(pool(study(record, values))))
    assert "over 4 settings and 10 replicates: snip" in said
    assert "2 of 3 pairs of methods are separated" in said
    assert "snip is better than every other method." in said


def test_without_runs_there_is_nothing_to_pool(grid: Callable[..., Grid]) -> None:
    found = pool(panels(frame(grid().runs())))
    assert pooled_sentences(found) == [
        "No two methods have an accuracy in every network yet: there is nothing to pool."
    ]
    assert pool([]).means.empty
