"""Ranks against scipy and cases worked out by hand; the diagram draws what the ranks say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pbt_bench.analysis.figures.ranks import ranks as draw_ranks
from pbt_bench.analysis.figures.style import save
from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.statistics.average_ranks import Ranks, rank_methods, rank_sentences, signed_rank
from pbt_bench.analysis.statistics.panel import Panel, panels
from pbt_bench.analysis.statistics.study import Study
from pbt_bench.running.record import RunRecord
from pbt_bench.spec import Grid, RunSpec


@pytest.mark.parametrize("n", [3, 6, 20, 40])
def test_without_ties_it_is_scipys_exact_test(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.3, 1, n)
    assert signed_rank(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)


def test_ties_by_hand() -> None:
    # Ranks 1.5, 1.5, 3, 4 of 1, -1, 2, 3: the positive ones sum to 8.5. Of 16 signs, sums of 8.5 or more: 10 and 8.5
    # (twice): 3 of 16, two-sided 6 of 16.
    assert signed_rank(np.array([1.0, -1.0, 2.0, 3.0])) == pytest.approx(6 / 16)
    assert signed_rank(np.array([1.0, -1.0, 2.0, 3.0, 0.0])) == pytest.approx(6 / 16), "a zero says nothing"
    assert signed_rank(np.zeros(9)) == 1
    assert signed_rank(np.full(6, 0.5)) == pytest.approx(2 / 64), "the least that six can give"


def test_many_settings_agree_with_the_exact_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(0).normal(0.15, 1, 150)
    normal = signed_rank(differences)
    monkeypatch.setattr("pbt_bench.analysis.statistics.average_ranks._EXACT_SETTINGS", 1000)
    assert signed_rank(differences) == pytest.approx(normal, rel=0.05)


def study(record: Callable[..., RunRecord], accuracies: Mapping[str, Sequence[float | None]]) -> list[Panel]:
    """Panels of one model; accuracies: method -> one per sparsity, None = missing."""
    runs = []
    for method, values in accuracies.items():
        for i, value in enumerate(values):
            spec = RunSpec(dataset="d", model="m", method=method, sparsity=0.1 + i / 100, seed=0)
            runs.append(spec if value is None else record(spec, accuracy=value))
    return panels(frame(runs))


def test_average_ranks_by_hand(record: Callable[..., RunRecord]) -> None:
    found = rank_methods(
        study(record, {"a": [0.9, 0.8, 0.7, 0.6], "b": [0.8, 0.8, 0.6, 0.9], "c": [0.1, 0.2, 0.9, None]})
    )
    # In three settings: a 1, 1.5, 2; b 2, 1.5, 3; c 3, 3, 1.
    assert found.average.to_dict() == {"a": 1.5, "b": pytest.approx(6.5 / 3), "c": pytest.approx(7 / 3)}
    assert (found.settings, found.left_out) == (3, 1)
    pair = found.pairs.set_index(["method_a", "method_b"]).loc[("a", "b")]
    assert (pair["wins_a"], pair["wins_b"], pair["ties"]) == (2, 0, 1)
    assert pair["median_difference"] == pytest.approx(0.1)
    said = " ".join(rank_sentences(found))
    assert "Average rank over 3 settings (1 is best): a 1.50, b 2.17, c 2.33." in said
    assert "1 more lack an accuracy of some method" in said
    assert "cannot show any difference" in said


def test_means_that_differ_by_rounding_share_their_rank(record: Callable[..., RunRecord]) -> None:
    found = rank_methods(study(record, {"a": [0.1 + 0.2], "b": [0.3]}))
    assert found.average.to_dict() == {"a": 1.5, "b": 1.5}
    assert found.pairs["ties"].tolist() == [1]


def test_a_method_under_a_sanity_check_is_not_ranked_with_the_methods(record: Callable[..., RunRecord]) -> None:
    runs = [
        record(
            RunSpec(dataset="d", model="m", method=method, sparsity=0.9, seed=0, sanity=sanity), accuracy=accuracy
        )
        for method, sanity, accuracy in (
            ("a", "none", 0.9), ("b", "none", 0.8), ("a", "invert", 0.1), ("b", "invert", 0.7),
        )
    ]  # fmt: skip
    assert rank_methods(panels(frame(runs))).average.to_dict() == {"a": 1, "b": 2}
    assert rank_methods(panels(frame(runs[2:]))).average.to_dict() == {"b": 1, "a": 2}, "there is nothing else"


def test_a_method_that_always_wins_stands_apart(record: Callable[..., RunRecord]) -> None:
    wave = np.sin(np.arange(12)) / 50
    levels = {"best": 0.9 + wave / 2, "even": 0.5 + wave, "odd": 0.5 - wave}
    found = rank_methods(study(record, {name: values.tolist() for name, values in levels.items()}))
    assert found.average["best"] == 1
    assert found.pairs.set_index(["method_a", "method_b"])["p_holm"].iloc[0] == pytest.approx(3 * 2 / 2**12)
    assert found.groups == [sorted(["even", "odd"], key=lambda name: found.average[name])]
    assert "2 of 3 pairs differ significantly" in " ".join(rank_sentences(found))


def made(apart: list[str], names: Sequence[str] = "abcd") -> Ranks:
    """Ranks 1, 2, 3, ... with these pairs apart."""
    pairs = [(a, b, 0.01 if a + b in apart else 0.5) for i, a in enumerate(names) for b in names[i + 1 :]]
    table = pd.DataFrame(pairs, columns=["method_a", "method_b", "p_holm"])
    return Ranks(pd.Series({name: 1.0 + i for i, name in enumerate(names)}), 9, 0, table)


def with_ranks(found: Ranks) -> Study:
    """A study of these ranks."""
    study = Study([])
    study.__dict__["ranks"] = found
    return study


@pytest.mark.parametrize(
    ("apart", "groups"),
    [
        ([], [["a", "b", "c", "d"]]),
        (["ad"], [["a", "b", "c"], ["b", "c", "d"]]),
        (["ab", "ac", "ad"], [["b", "c", "d"]]),
        (["ab", "ac", "ad", "bc", "bd", "cd"], []),
        (["bc", "ad", "ac", "bd"], [["a", "b"], ["c", "d"]]),
    ],
)
def test_bars_join_what_cannot_be_told_apart(apart: list[str], groups: list[list[str]]) -> None:
    found = made(apart)
    assert found.groups == groups
    (axes,) = draw_ranks(with_ranks(found)).axes
    bars = [line for line in axes.lines if line.get_linewidth() == 3]
    assert len(bars) == len(groups)
    assert [text.get_text() for text in axes.texts] == ["a 1.00", "b 2.00", "c 3.00", "d 4.00"]


def test_a_long_name_is_cut_and_leaves_room_for_the_axis(tmp_path: Path) -> None:
    found = made([], ["a" * 100, "b" * 100])
    figure = draw_ranks(with_ranks(found))
    save(figure, tmp_path / "ranks")
    (axes,) = figure.axes
    assert len(axes.texts[0].get_text()) < 40
    assert axes.get_position().width > 0.2
    assert figure.get_figwidth() == 3.5


def test_without_runs_there_is_nothing_to_rank(grid: Callable[..., Grid]) -> None:
    found = rank_methods(panels(frame(grid().runs())))
    assert rank_sentences(found) == ["No setting has an accuracy of two methods yet: there is nothing to rank."]
    assert rank_methods([]).average.empty
