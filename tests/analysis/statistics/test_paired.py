"""Paired statistics against scipy and cases worked out by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.statistics import paired
from pbt_bench.analysis.statistics.paired import (
    Comparison,
    Standing,
    accuracies,
    compare,
    holm,
    paired_t,
    standings,
)
from pbt_bench.analysis.statistics.panel import Panel, panels
from pbt_bench.running.record import RunRecord
from pbt_bench.spec import RunSpec


@pytest.mark.parametrize("n", [3, 5, 30])
def test_the_paired_t_test_is_scipys(n: int) -> None:
    first, second = np.random.default_rng(n).normal(0.8, 0.02, (2, n, 4))
    assert paired_t(first - second) == pytest.approx(stats.ttest_rel(first, second).pvalue)


def test_differences_without_spread() -> None:
    assert paired_t(np.array([[0.1, 0.0]] * 3)).tolist() == [0.25, 1], "a constant difference is as sure as its signs"


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04, made monotone.
    assert holm(np.array([0.03, 0.01, 0.04, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm(np.array([0.9, 0.6])) == pytest.approx([1, 1])
    assert len(holm(np.array([]))) == 0


def one(values: Sequence[float] | NDArray[np.float64]) -> Comparison:
    """Compare two methods with these differences."""
    return compare(np.reshape(values, (-1, 1, 1)), ["other"])[0][0]


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_interval_is_students(n: int) -> None:
    values = np.random.default_rng(n).normal(0.02, 0.01, n)
    found = one(values)
    expected = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert np.isnan(one(values[:1]).low)
    assert np.isnan(one([0.1] * n).low), "equal differences have no spread"


def test_methods_are_equal_within_a_point_by_two_one_sided_tests() -> None:
    values = np.array([0.001, -0.002, 0.0015, 0.0])
    ends = [stats.ttest_1samp(values + shift, 0, alternative=side).pvalue for shift, side in
            ((paired.MARGIN, "greater"), (-paired.MARGIN, "less"))]  # fmt: skip
    assert max(ends) < 0.05
    assert one(values).equal
    assert not one(6 * values).equal
    assert not one(values + 0.0095).equal
    assert one([0.0] * 3).equal
    assert not one([0.0] * 2).equal, "two seeds decide nothing"


def test_detectable_differences_and_seeds_have_the_stated_power() -> None:
    found = one([0.01, 0.03, 0.05, 0.01, 0.02])
    draws = np.random.default_rng(0).normal(found.detectable, found.std, (5, 20_000))
    assert np.mean(paired_t(draws) < 0.05) == pytest.approx(0.8, abs=0.04)
    few = one([0.01, -0.01, 0.02])
    draws = np.random.default_rng(0).normal(few.mean, few.std, (int(few.seeds_needed), 20_000))
    assert np.mean(paired_t(draws) < 0.05) == pytest.approx(0.8, abs=0.04)
    assert one([1e-6, -0.01, 0.01]).seeds_needed == np.inf
    assert np.isnan(one([0.1, 0.1, 0.1]).seeds_needed)


def test_methods_are_compared_on_the_seeds_that_both_have(record: Callable[..., RunRecord]) -> None:
    accuracies: dict[str, list[float | None]]
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
    assert snip.std == pytest.approx(np.std([-0.02, -0.01, -0.01], ddof=1))
    assert snip.p == pytest.approx(stats.ttest_rel([0.9, 0.8, 0.7], [0.88, 0.79, 0.69]).pvalue)
    assert random.mean == pytest.approx(0.19)
    assert np.isnan(random.p)
    assert np.isnan(random.p_holm)
    assert standing.marks == {"fts": "highest", "snip": "undecided", "random": "undecided"}
    assert not standing.settled


def test_to_be_better_than_all_needs_no_correction_and_than_some_does(record: Callable[..., RunRecord]) -> None:
    def standing(accuracies: Mapping[str, Sequence[float]]) -> Standing:
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
    assert [other.p_holm for other in both.against] == pytest.approx([3 * 0.0248] * 2, rel=0.02), "of three pairs"
    assert not any(other.supported for other in both.against)
    assert both.settled
    assert both.marks == {"snip": "best", "fts": "worse", "synflow": "worse"}
    four = standing({"snip": leader, "fts": alike, "grasp": [0.9, 0.87, 0.91], "random": [0.7, 0.7001, 0.6999]})
    assert not four.settled
    assert four.marks == {"snip": "highest", "grasp": "undecided", "fts": "undecided", "random": "worse"}


def against(other: str, *, mean: float = 0.1, p: float = 0.01, p_holm: float = 0.02, std: float = 0.01) -> Comparison:
    return Comparison(other, 3, mean, std, p, p_holm)


def test_a_difference_is_supported_by_the_corrected_test() -> None:
    assert against("x").supported
    assert not against("x", mean=-0.1).supported
    assert not against("x", p_holm=0.05).supported
    assert not against("x", p=0.04, p_holm=0.08).supported
    assert [against("x", mean=mean).level for mean in (0.0, 1e-15, -1e-15, 1e-6, -1e-6)] == [True] * 3 + [False] * 2


def test_a_leader_is_settled_if_every_comparison_says_so() -> None:
    def settled(*comparisons: Comparison, at_chance: tuple[str, ...] = ()) -> bool:
        return Standing(0.9, "leader", comparisons, at_chance).settled

    assert settled(against("x"), against("y", p_holm=0.5))
    assert settled(at_chance=("z",))
    assert not settled()
    for weak in ({"mean": -0.1}, {"p": 0.05}, {"p": 0.2}, {"p": np.nan}):
        assert not settled(against("x"), against("y", **weak)), weak


def test_a_method_is_marked_as_the_seeds_decide() -> None:
    near = against("near", mean=0.001, std=0.001, p=0.2, p_holm=0.4)
    wide = against("wide", mean=0.2, std=0.2, p=0.2, p_holm=0.4)
    standing = Standing(0.9, "leader", (against("worse"), near, wide), ("z",))
    assert standing.marks == {
        "leader": "highest", "worse": "worse", "near": "equal", "wide": "undecided", "z": "worse",
    }  # fmt: skip
    assert standing.marked("equal") == ["near"]
    assert Standing(0.9, "leader", (against("x"),)).marks == {"leader": "best", "x": "worse"}


def study(record: Callable[..., RunRecord], values: Mapping[tuple[str, float], Mapping[int, float | None]]) -> Panel:
    """The panel of runs with (method, sparsity) -> {seed: accuracy, or None for a collapsed run}."""
    runs = [
        record(
            RunSpec(dataset="d", model="m", method=method, sparsity=sparsity, seed=seed),
            "collapsed" if value is None else "done",
            value,
        )
        for (method, sparsity), by_seed in values.items()
        for seed, value in by_seed.items()
    ]
    (panel,) = panels(frame(runs))
    return panel


def test_every_sparsity_has_its_own_leader_and_order(record: Callable[..., RunRecord]) -> None:
    panel = study(
        record,
        {
            ("snip", 0.98): {7: 0.6, 3: 0.5, 5: 0.7},
            ("fts", 0.98): {7: 0.5, 3: 0.45, 5: 0.65},
            ("random", 0.98): {7: 0.1, 3: 0.1, 5: 0.1},
            ("synflow", 0.98): {5: 0.75},
            ("snip", 0.9): {7: 0.9, 3: 0.88, 5: 0.92},
            ("fts", 0.9): {7: 0.91, 3: 0.9, 5: 0.93},
            ("random", 0.9): {7: None, 3: None, 5: None},
            ("magnitude", 0.9): {7: None, 3: None},
        },
    )
    own = accuracies(panel)
    assert (own.seeds, own.sparsities) == ([3, 5, 7], [0.9, 0.98])
    assert set(own.methods) == {"snip", "fts", "random", "synflow", "magnitude"}
    assert own.part([7, 3], [0.98], ["snip", "fts"]).tolist() == [[[0.6, 0.5]], [[0.5, 0.45]]]
    assert own.ended[0].tolist() == [method in ("random", "magnitude", "synflow") for method in own.methods]

    first, second = standings(panel)
    assert (first.sparsity, first.leader, first.at_chance) == (0.9, "fts", ("random",))
    assert [(other.other, other.pairs) for other in first.against] == [("snip", 3), ("magnitude", 2)]
    assert [other.mean for other in first.against] == pytest.approx([0.04 / 3, (0.81 + 0.8) / 2])
    assert first.against[1].std == pytest.approx(np.std([0.81, 0.8], ddof=1))
    assert np.isnan(first.against[1].p), "two pairs are too few"

    assert (second.sparsity, second.leader, second.at_chance) == (0.98, "synflow", ())
    assert [(other.other, other.pairs) for other in second.against] == [("snip", 1), ("fts", 1), ("random", 1)]
    assert [other.mean for other in second.against] == pytest.approx([0.05, 0.1, 0.65])


def test_methods_without_an_accuracy_are_left_out(record: Callable[..., RunRecord]) -> None:
    missing = RunSpec(dataset="d", model="m", method="fts", sparsity=0.9, seed=0)
    snip = RunSpec(dataset="d", model="m", method="snip", sparsity=0.9, seed=0)
    (panel,) = panels(frame([missing, record(snip)]))
    assert accuracies(panel).methods == ["snip"]
    assert [(found.leader, found.against, found.at_chance) for found in standings(panel)] == [("snip", (), ())]


@pytest.mark.parametrize("seeds", [3, 4])
def test_a_method_that_always_collapsed_below_the_leader_is_at_chance(
    record: Callable[..., RunRecord], seeds: int
) -> None:
    panel = study(
        record,
        {
            ("snip", 0.9): {seed: 0.8 + 0.01 * seed for seed in range(seeds)},
            ("synflow", 0.9): {seed: 0.7 + 0.0101 * seed for seed in range(seeds)},
            ("fts", 0.9): dict.fromkeys(range(seeds)),
        },
    )
    (standing,) = standings(panel)
    assert (standing.leader, standing.at_chance) == ("snip", ("fts",))
    assert [other.other for other in standing.against] == ["synflow"]
    assert standing.against[0].p_holm == standing.against[0].p, "what is at chance is no test to correct for"


def test_a_collapsed_method_that_once_equals_the_leader_is_compared(record: Callable[..., RunRecord]) -> None:
    panel = study(record, {("snip", 0.9): {0: 0.1, 1: 0.5, 2: 0.6}, ("fts", 0.9): dict.fromkeys(range(3))})
    (standing,) = standings(panel)
    assert standing.at_chance == ()
    assert [other.other for other in standing.against] == ["fts"]


def test_columns_are_compared_each_with_its_own_pairs() -> None:
    draws = np.random.default_rng(0).normal(0.05, 0.02, (9, 2, 3))
    draws[6:, 0, 1] = np.nan
    draws[2:, 1, 0] = np.nan
    draws[:, 1, 2] = np.nan
    found = compare(draws, ["a", "b", "c"])
    assert [[other.pairs for other in line] for line in found] == [[9, 6, 9], [2, 9, 0]]
    for row, column in itertools.product(range(2), range(3)):
        values = draws[:, row, column]
        values, other = values[~np.isnan(values)], found[row][column]
        if len(values) == 0:
            assert np.isnan([other.mean, other.std, other.low, other.high, other.p, other.p_holm]).all()
            continue
        assert other.mean == pytest.approx(values.mean())
        assert other.std == pytest.approx(values.std(ddof=1))
        assert other.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue if len(values) > 2 else np.nan, nan_ok=True)
    assert [other.p_holm for other in found[0]] == pytest.approx(holm(np.array([other.p for other in found[0]])))
    assert found[1][1].p_holm == found[1][1].p, "the only test of its row"
