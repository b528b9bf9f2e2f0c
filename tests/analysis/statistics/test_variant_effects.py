"""An ablation is compared with its own base, on the same seeds, and the sentence says what the data support."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from pbt_bench.analysis.pages.table_files import latex, markdown
from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.statistics.panel import panels
from pbt_bench.analysis.statistics.tables import Cell
from pbt_bench.analysis.statistics.variant_effects import Variant, find_variants, variant_sentence, variant_table
from pbt_bench.running.record import RunRecord
from pbt_bench.spec import Grid, RunSpec


def runs(
    record: Callable[..., RunRecord], accuracies: Mapping[tuple[str, float], Sequence[float | None]], **fields: Any
) -> list[RunRecord | RunSpec]:
    """Records: (method, sparsity) -> an accuracy per seed, None = missing."""
    made = []
    for (method, sparsity), values in accuracies.items():
        for seed, value in enumerate(values):
            spec = RunSpec(dataset="d", model="m", method=method, sparsity=sparsity, seed=seed, **fields)
            made.append(spec if value is None else record(spec, accuracy=value))
    return made


@pytest.fixture
def shuffled(record: Callable[..., RunRecord]) -> Variant:
    """Shuffling costs snip 10, 11 and 12 points at 0.9 and nothing at 0.98; for fts two seeds lack, one gains."""
    plain: dict[tuple[str, float], list[float | None]]
    plain = {("snip", 0.9): [0.9, 0.8, 0.7], ("snip", 0.98): [0.5, 0.5, 0.5], ("fts", 0.9): [0.6, 0.7, None]}
    other: dict[tuple[str, float], list[float | None]]
    other = {("snip", 0.9): [0.8, 0.69, 0.58], ("snip", 0.98): [0.5, 0.52, 0.48], ("fts", 0.9): [0.65, None, 0.7]}
    (found,) = find_variants(panels(frame(runs(record, plain) + runs(record, other, sanity="shuffle"))))
    return found


def test_differences_are_of_the_same_seed(shuffled: Variant) -> None:
    table = variant_table(shuffled)
    assert table.title == "d / m: sanity shuffle against none"
    assert table.methods == ["snip", "fts"]
    assert [(row.sparsity, row.cells) for row in table.rows] == [
        ("0.9", [Cell("-11.00", "", "-13.48 to -8.52", "best"), Cell("+5.00")]),
        ("0.98", [Cell("+0.00", "", "-4.97 to +4.97"), Cell("", "", "missing")]),
        # Of each seed the mean over sparsities: -5, -4.5 and -7.
        ("mean", [Cell("-5.50", "", "-8.79 to -2.21", "best"), Cell("+5.00")]),
    ]
    assert "| 0.9 | **-11.00** (-13.48 to -8.52) | +5.00 |" in markdown(table)
    assert r"\textbf{-11.00}" in latex(table)
    assert set(table.numbers["pairs"]) == {3, 1, 0}


def test_the_sentence_names_what_is_supported(shuffled: Variant) -> None:
    assert variant_sentence(shuffled) == (
        "On average over sparsities, sanity shuffle lowers the accuracy of snip; shows no difference for fts."
    )


def test_each_axis_is_compared_alone(record: Callable[..., RunRecord]) -> None:
    cell = {("snip", 0.9): [0.9, 0.8, 0.7]}
    made = [run for sanity in ("none", "invert") for warmup in ("none", "1 epochs")
            for run in runs(record, cell, sanity=sanity, warmup=warmup)]  # fmt: skip
    found = find_variants(panels(frame(made)))
    assert sorted(variant.title for variant in found) == [
        "d / m (sanity invert): warmup 1 epochs against none",
        "d / m (sanity none): warmup 1 epochs against none",
        "d / m (warmup 1 epochs): sanity invert against none",
        "d / m (warmup none): sanity invert against none",
    ]


def test_without_a_base_or_without_runs_there_is_nothing(
    record: Callable[..., RunRecord], grid: Callable[..., Grid]
) -> None:
    assert find_variants(panels(frame(runs(record, {("snip", 0.9): [0.9]}, init="kaiming")))) == []
    assert find_variants(panels(frame(grid(sanity=("none", "shuffle")).runs()))) == []
