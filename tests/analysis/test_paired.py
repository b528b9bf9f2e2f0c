"""Paired statistics against scipy and cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pbt_bench.analysis.frame import frame
from pbt_bench.analysis.paired import bootstrap_interval, holm, paired_t, standings
from pbt_bench.analysis.summary import panels
from pbt_bench.spec import RunSpec


@pytest.mark.parametrize("n", [3, 5, 30])
def test_the_paired_t_test_is_scipys(n):
    first, second = np.random.default_rng(n).normal(0.8, 0.02, (2, n, 4))
    assert paired_t(first - second) == pytest.approx(stats.ttest_rel(first, second).pvalue)


def test_differences_without_spread():
    assert paired_t(np.array([[0.1, 0.0]] * 3)).tolist() == [0.25, 1], "a constant difference is as sure as its signs"


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04, made monotone.
    assert holm(np.array([0.03, 0.01, 0.04, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm(np.array([0.9, 0.6])) == pytest.approx([1, 1])
    assert len(holm(np.array([]))) == 0


def test_of_three_values_the_interval_is_their_range():
    low, high = bootstrap_interval(np.array([[1.0, -5.0], [2.0, 0.0], [4.0, 5.0]]))
    assert low.tolist() == [1, -5]
    assert high.tolist() == [4, 5]


def test_all_resamples_and_random_ones_agree_with_scipy(monkeypatch):
    values = np.random.default_rng(3).exponential(1, (7, 1))
    exact = np.ravel(bootstrap_interval(values))
    tail = stats.norm.cdf(-np.sqrt(7 / 6) * stats.t.ppf(0.975, 6))
    other = stats.bootstrap(
        (values[:, 0],), np.mean, n_resamples=60_000, method="percentile", confidence_level=1 - 2 * tail, rng=1
    ).confidence_interval
    assert exact == pytest.approx(other, rel=0.03)
    monkeypatch.setattr("pbt_bench.analysis.paired._EXACT_UP_TO", 2)
    from pbt_bench.analysis import paired

    paired._resamples.cache_clear()
    assert np.ravel(bootstrap_interval(values)) == pytest.approx(exact, rel=0.08)
    paired._resamples.cache_clear()


@pytest.mark.parametrize("n", [5, 10])
def test_the_interval_covers_the_mean_of_normal_data_about_as_often_as_students(n):
    values = np.random.default_rng(n).normal(0, 1, (n, 600))
    low, high = bootstrap_interval(values)
    assert 0.9 < np.mean((low <= 0) & (high >= 0)) < 0.97


def test_methods_are_compared_on_the_seeds_that_both_have(record):
    accuracies = {"snip": [0.9, 0.8, 0.7, 0.6], "fts": [0.88, 0.79, 0.69, None], "random": [None, None, 0.5, 0.2]}
    runs = [
        record(RunSpec(dataset="d", model="m", method=method, sparsity=0.9, seed=seed), accuracy=value)
        for method, values in accuracies.items()
        for seed, value in enumerate(values)
        if value is not None
    ]
    (panel,) = panels(frame(runs))
    (standing,) = standings(panel)
    # The highest mean is that of fts, over three easy seeds; snip was better on each of them.
    assert standing.leader == "fts"
    snip, random = standing.against
    assert (snip.other, snip.pairs, random.other, random.pairs) == ("snip", 3, "random", 1)
    assert snip.mean == pytest.approx((-0.02 - 0.01 - 0.01) / 3)
    assert (snip.low, snip.high) == (pytest.approx(-0.02), pytest.approx(-0.01))
    assert snip.p == pytest.approx(stats.ttest_rel([0.9, 0.8, 0.7], [0.88, 0.79, 0.69]).pvalue)
    assert random.mean == pytest.approx(0.19)
    assert np.isnan(random.p)
    assert np.isnan(random.p_holm)
    assert standing.tied == ["snip", "random"]
    assert not standing.settled


def test_to_be_better_than_all_needs_no_correction_and_than_some_does(record):
    def standing(accuracies):
        runs = [
            record(RunSpec(dataset="d", model="m", method=method, sparsity=0.9, seed=seed), accuracy=value)
            for method, values in accuracies.items()
            for seed, value in enumerate(values)
        ]
        return standings(panels(frame(runs))[0])[0]

    leader = [0.9, 0.9, 0.9]
    # Differences 0.10, 0.12, 0.17: t = 0.13 / (0.036 / sqrt(3)) = 6.2, p = 0.025; twice that is too much.
    alike = [0.80, 0.78, 0.73]
    both = standing({"snip": leader, "fts": alike, "synflow": alike})
    assert [other.p for other in both.against] == pytest.approx([0.0248] * 2, rel=0.02)
    assert [other.p_holm for other in both.against] == pytest.approx([0.0496] * 2, rel=0.02)
    three = standing({"snip": leader, "fts": alike, "synflow": alike, "random": alike})
    assert not any(other.supported for other in three.against)
    assert three.settled
    assert three.tied == []
    four = standing({"snip": leader, "fts": alike, "synflow": alike, "random": alike, "grasp": [0.9, 0.89, 0.91]})
    assert not four.settled
    assert four.tied == ["grasp", "random", "synflow", "fts"]
