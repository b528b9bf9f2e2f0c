"""The headlines say who wins where, who cannot be told apart, and how a winner can have empty layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analysis.statistics.test_conclusions import cell, emptied

from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.statistics.headlines import Headline, panel_headline, study_headline
from pbt_bench.analysis.statistics.paired import standings
from pbt_bench.analysis.statistics.panel import panels
from pbt_bench.analysis.statistics.pooled import pool
from pbt_bench.running.record import RunRecord


def headlines(runs: Sequence[RunRecord]) -> tuple[str, Headline]:
    (panel,) = panels(frame(runs))
    return study_headline(pool([panel])), panel_headline(panel, standings(panel))


def test_a_network_names_the_winner_where_there_is_one(record: Callable[..., RunRecord]) -> None:
    runs = cell(record, "snip", 0.9, [0.90, 0.91, 0.92]) + cell(record, "fts", 0.9, [0.60, 0.61, 0.63])
    runs += cell(record, "snip", 0.95, [0.70, 0.80, 0.90]) + cell(record, "fts", 0.95, [0.71, 0.79, 0.93])
    runs += cell(record, "snip", 0.98, [0.1, 0.1, 0.1], "collapsed") + cell(record, "fts", 0.98, [0.6, 0.5, 0.7])
    runs[0] = emptied(runs[0], 3)
    study, network = headlines(runs)
    assert network.title == "digits / vgg8"
    assert network.sentence == (
        "snip is better than every other method at 0.9; only fts is above chance at 0.98; "
        "at 0.95 no method is better than every other (highest means: fts)."
    )
    (remark,) = network.remarks
    assert remark.startswith("snip keeps no weight in 1 of 7 layers (3.conv) in 1 of 3 trained runs at 0.9; ")
    assert study.startswith("Over 3 settings, fts has the highest mean accuracy (")


def test_all_settings_name_those_that_the_seeds_separate(record: Callable[..., RunRecord]) -> None:
    runs = cell(record, "snip", 0.9, [0.90, 0.91, 0.92]) + cell(record, "fts", 0.9, [0.60, 0.61, 0.63])
    assert headlines(runs)[0] == (
        "Over 1 setting, snip has the highest mean accuracy (91.00 %) and is better than every other method."
    )
    runs += cell(record, "random", 0.9, [0.89, 0.92, 0.91])
    assert headlines(runs)[0] == (
        "Over 1 setting, snip has the highest mean accuracy (91.00 %): better than fts, and not separated from random."
    )
    few = cell(record, "snip", 0.9, [0.90, 0.91]) + cell(record, "fts", 0.9, [0.89, 0.92])
    assert headlines(few)[0].endswith("but the seeds separate it from no other method.")
    assert headlines(few)[1].sentence == "at no sparsity is one method better than every other (highest means: snip)."
    assert headlines(cell(record, "snip", 0.9, [0.90]))[0].startswith("No two methods have an accuracy")
