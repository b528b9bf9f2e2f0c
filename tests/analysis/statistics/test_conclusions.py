"""The sentences follow the numbers: who is better, who cannot be told apart, what ended at chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.statistics.conclusions import Conclusion, conclude, main_conclusions
from pbt_bench.analysis.statistics.paired import standings
from pbt_bench.analysis.statistics.panel import panels
from pbt_bench.running.record import RunRecord
from pbt_bench.spec import RunSpec


def cell(
    record: Callable[..., RunRecord], method: str, sparsity: float, accuracies: Sequence[float], status: str = "done"
) -> list[RunRecord]:
    """Records of one method and sparsity, a seed for each accuracy."""
    spec: dict[str, Any] = {"dataset": "digits", "model": "vgg8", "method": method, "sparsity": sparsity}
    return [record(RunSpec(seed=seed, **spec), status, value) for seed, value in enumerate(accuracies)]


def concluded(runs: Sequence[RunRecord]) -> tuple[list[Conclusion], str]:
    (panel,) = panels(frame(runs))
    found = standings(panel)
    return conclude(panel, found), " ".join(main_conclusions(panel, found))


def test_each_sparsity_gets_the_sentence_its_numbers_allow(record: Callable[..., RunRecord]) -> None:
    runs = cell(record, "snip", 0.9, [0.90, 0.91, 0.92]) + cell(record, "fts", 0.9, [0.60, 0.61, 0.63])
    runs += cell(record, "snip", 0.95, [0.70, 0.80, 0.90]) + cell(record, "fts", 0.95, [0.71, 0.79, 0.93])
    runs += cell(record, "random", 0.95, [0.10, 0.21, 0.30])
    runs += cell(record, "snip", 0.98, [0.5, 0.6, 0.7]) + cell(record, "fts", 0.98, [0.6, 0.5, 0.7])
    runs += cell(record, "snip", 0.99, [0.5, 0.5]) + cell(record, "fts", 0.99, [0.4, 0.4])
    runs += cell(record, "snip", 0.995, [0.5, 0.5, 0.5])
    found, said = concluded(runs)
    assert [(c.sparsity, c.sentence) for c in found] == [
        ("0.9", "snip (91.00 %) is better than every other method."),
        ("0.95", "fts (81.00 %) has the highest mean; better than random, undecided: snip."),
        ("0.98", "snip (60.00 %) and fts share the highest mean."),
        (
            "0.99",
            "snip (50.00 %) has the highest mean, but 2 seeds in common with some method cannot support any order.",
        ),
        ("0.995", "Only snip (50.00 %) has an accuracy: nothing to compare."),
    ]
    assert found[1].nearest == "snip"
    assert found[1].difference == "+1.00 [-3.97, +5.97]", "Student t"
    assert (found[1].detectable, found[1].seeds) == ("6.19", "34")
    assert found[0].seeds == ""
    assert found[3].p == ""
    assert "Highest mean accuracy: snip at 0.9, 0.99 and 0.995; fts at 0.95; no single method at 0.98." in said
    assert "The leader is better than every other method at 0.9; elsewhere the order at the top is not settled." in said


def test_the_last_sparsity_near_the_dense_network_is_named(record: Callable[..., RunRecord]) -> None:
    runs = cell(record, "dense", 0.0, [0.95, 0.95]) + cell(record, "snip", 0.5, [0.945, 0.945])
    _, said = concluded(runs + cell(record, "snip", 0.9, [0.93, 0.93]))
    assert "(95.00 %) up to sparsity 0.5." in said


@pytest.mark.parametrize("status", ["collapsed", "diverged"])
def test_runs_that_ended_at_chance_count_there_and_are_named(record: Callable[..., RunRecord], status: str) -> None:
    runs = cell(record, "snip", 0.9, [0.50, 0.51, 0.52]) + cell(record, "fts", 0.9, [0.9, 0.9, 0.95], status)
    found, said = concluded(runs)
    said_of_it = "snip (51.00 %) is above chance, and fts is at chance in every run."
    assert found[0].sentence == said_of_it, "fts counts as 0.1, not 0.9"
    assert (found[0].nearest, found[0].p) == ("all at chance", ""), "no runner-up to be better than"
    assert "Every method but the leader is at chance in every run at 0.9." in said
    assert "better than every other method" not in said
    assert f"Counted at chance accuracy because they {status}: 3 of fts." in said


def test_a_method_at_chance_in_every_run_is_named_and_corrects_nothing(record: Callable[..., RunRecord]) -> None:
    runs = cell(record, "snip", 0.9, [0.50, 0.51, 0.52]) + cell(record, "synflow", 0.9, [0.52, 0.45, 0.51])
    runs += cell(record, "fts", 0.9, [0.1, 0.1, 0.1], "collapsed") + cell(record, "random", 0.9, [0.3, 0.3, 0.33])
    found, _ = concluded(runs)
    assert found[0].sentence == (
        "snip (51.00 %) has the highest mean; better than random, undecided: synflow. At chance in every run: fts."
    )


def test_a_leader_with_empty_layers_is_explained(record: Callable[..., RunRecord]) -> None:
    runs = cell(record, "snip", 0.9, [0.90, 0.91, 0.92]) + cell(record, "fts", 0.9, [0.60, 0.61, 0.63])
    runs[1] = emptied(runs[1], 2, 5)
    (found,), _ = concluded(runs)
    assert found.sentence == (
        "snip (91.00 %) is better than every other method. snip keeps no weight in 2 of 7 layers (2.conv and 5.conv) "
        "in 1 of 3 trained runs at 0.9; the others still join input to output."
    )


def emptied(run: RunRecord, *layers: int) -> RunRecord:
    """The record with no kept weight in some layers."""
    assert run.pruning is not None
    found = tuple(
        msgspec.structs.replace(layer, kept=0) if i in layers else layer for i, layer in enumerate(run.pruning.layers)
    )
    return msgspec.structs.replace(run, pruning=msgspec.structs.replace(run.pruning, layers=found))
