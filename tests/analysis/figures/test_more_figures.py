"""What the figures of compression, depth, critical and effective sparsity, curves, cost and variants draw."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pbt_bench.analysis.figures import multiples, style
from pbt_bench.analysis.figures.accuracy import accuracy
from pbt_bench.analysis.figures.compression import compression
from pbt_bench.analysis.figures.cost import cost
from pbt_bench.analysis.figures.critical import critical, critical_sparsities, printed_critical
from pbt_bench.analysis.figures.curves import accuracy_curves, curves
from pbt_bench.analysis.figures.effective import effective
from pbt_bench.analysis.figures.effective_compression import effective_compression
from pbt_bench.analysis.figures.layer_densities import profiles
from pbt_bench.analysis.figures.mask_metrics import accuracy_and_mask_metrics, rank_correlation
from pbt_bench.analysis.figures.multiples import spread
from pbt_bench.analysis.figures.variants import variants as draw_variants
from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.statistics.method_styles import method_style
from pbt_bench.analysis.statistics.panel import panels
from pbt_bench.analysis.statistics.study import Study
from pbt_bench.running.record import RunRecord
from pbt_bench.spec import Grid, RunSpec

ONE = {"model": ("vgg8",), "method": ("snip", "fts"), "seed": (0, 1)}


def drawn(axes: Axes, method: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The x and y of the line of one method, without its hollow marks."""
    colour = method_style(method).colour
    (line,) = [line for line in axes.lines if line.get_color() == colour and line.get_linestyle() != "None"]
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def at_the_edge(axes: Axes, method: str) -> list[float]:
    """Where the hollow marks of one method are."""
    colour = method_style(method).colour
    lines = [line for line in axes.lines if line.get_markeredgecolor() == colour and line.get_linestyle() == "None"]
    return [float(x) for line in lines for x in np.asarray(line.get_xdata()) if line.get_markerfacecolor() == "white"]


def with_layers(run: RunRecord, kept: Sequence[int], **changes: Any) -> RunRecord:
    """The run with so many weights per layer of 100."""
    layers = tuple(msgspec.structs.replace(run.pruning.layers[0], name=f"l{i}", prunable=100, kept=k)
                   for i, k in enumerate(kept))  # fmt: skip
    changes |= {"layers": layers, "collapsed_layers": sum(k == 0 for k in kept)}
    return msgspec.structs.replace(run, pruning=msgspec.structs.replace(run.pruning, **changes))


def test_compression_is_weights_over_kept_weights(grid: Callable[..., Grid], record: Callable[..., RunRecord]) -> None:
    specs = grid(**ONE, sparsity=(0.5, 0.9, 0.99)).runs()
    runs = [record(spec, accuracy=0.9 - 0.1 * spec.seed - 0.3 * spec.sparsity) for spec in specs]
    (axes,) = compression(panels(frame(runs))).axes
    x, y = drawn(axes, "snip")
    assert x == pytest.approx([2, 10, 100])
    assert y == pytest.approx([100 * (0.85 - 0.3 * sparsity) for sparsity in (0.5, 0.9, 0.99)])
    assert axes.get_xscale() == "log"


def test_accuracy_stands_against_the_weights_on_paths(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(**ONE, sparsity=(0.9, 0.99)).runs()

    def made(spec: RunSpec) -> RunRecord:
        dead = spec.method == "fts" and spec.sparsity == 0.99
        share = 1.0 if dead else 1 - (0.4 + 0.2 * spec.seed) * (1 - spec.sparsity)
        run = record(spec, "collapsed" if dead else "done", accuracy=0.9 - spec.sparsity / 2)
        return msgspec.structs.replace(run, pruning=msgspec.structs.replace(run.pruning, effective_sparsity=share))

    (panel,) = panels(frame(map(made, specs)))
    printed = pd.DataFrame({"method": ["fts"] * 2, "effective_compression": [30.0, 5000.0], "mean": [0.7, 0.1]})
    (axes,) = effective_compression([dataclasses.replace(panel, printed_effective=printed)]).axes
    x, y = drawn(axes, "snip")
    assert x == pytest.approx([1 / 0.05, 1 / 0.005]), "half of the kept weights on average"
    assert y == pytest.approx([45, 40.5])
    assert axes.get_xscale() == "log"
    right = axes.get_xlim()[1]
    assert right > 5000
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [np.asarray(line.get_xdata()).tolist() for line in hollow] == [[right], [30, 5000]]
    assert [np.asarray(line.get_ydata()).tolist() for line in hollow] == [[10], [70, 10]]
    (alone,) = effective_compression([dataclasses.replace(panels(frame(specs))[0], printed_effective=printed)]).axes
    assert "(published only)" in alone.get_title()


def test_profiles_show_the_mean_density_of_each_layer_and_mark_empty_ones(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(**ONE, sparsity=(0.9,)).runs()
    kept = {
        ("snip", 0): (50, 20, 0, 4),
        ("snip", 1): (70, 40, 0, 0),
        ("fts", 0): (9, 9, 9, 9),
        ("fts", 1): (9, 9, 9, 9),
    }
    runs = [with_layers(record(spec), kept[spec.method, spec.seed]) for spec in specs if spec.method != "dense"]
    (axes,) = profiles(panels(frame(runs))[0]).axes
    assert drawn(axes, "snip")[1] == pytest.approx([0.6, 0.3, np.nan, 0.02], nan_ok=True)
    assert at_the_edge(axes, "snip") == [pytest.approx(2, abs=0.4)]
    assert drawn(axes, "fts")[1] == pytest.approx([0.09] * 4)
    assert at_the_edge(axes, "fts") == []


def test_critical_sparsity_is_the_highest_before_a_layer_is_empty(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(**ONE, sparsity=(0.5, 0.9, 0.98, 0.99)).runs()
    first_empty = {("snip", 0): 0.98, ("snip", 1): 0.99, ("fts", 0): 0.5, ("fts", 1): 2.0}

    def made(spec: RunSpec) -> RunRecord:
        empty = spec.sparsity >= first_empty.get((spec.method, spec.seed), 2)
        return with_layers(record(spec), (50, 0 if empty else 1))

    (panel,) = panels(frame(map(made, specs)))
    rows = critical_sparsities(panel).set_index(["method", "seed"])
    assert rows["critical"].to_dict() == pytest.approx(
        {("fts", 0): np.nan, ("fts", 1): 0.99, ("snip", 0): 0.9, ("snip", 1): 0.98}, nan_ok=True
    )
    assert rows["reached"].to_dict() == {("fts", 0): True, ("fts", 1): False, ("snip", 0): True, ("snip", 1): True}
    (axes,) = critical([panel]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["snip", "fts"]
    marks = {line.get_color(): line for line in axes.lines if line.get_marker() not in (None, "None", "")}
    snip, fts = (marks.get(method_style(m).colour) or next(
        line for line in axes.lines
        if line.get_markeredgecolor() == method_style(m).colour and np.size(line.get_xdata()) == 1
    ) for m in ("snip", "fts"))  # fmt: skip
    assert np.asarray(snip.get_xdata()).tolist() == pytest.approx([1])  # 0.9, the lower of two medians
    assert fts.get_marker() == "x"


def test_effective_sparsity_stands_against_the_nominal_one(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(**ONE, sparsity=(0.9, 0.99)).runs()

    def made(spec: RunSpec) -> RunRecord:
        dead = spec.method == "fts" and spec.sparsity == 0.99
        run = record(spec)
        effective = 1.0 if dead else 1 - 0.5 * (1 - spec.sparsity)
        return msgspec.structs.replace(run, pruning=msgspec.structs.replace(run.pruning, effective_sparsity=effective))

    (axes,) = effective(panels(frame(map(made, specs)))).axes
    assert drawn(axes, "snip")[0] == pytest.approx([1, 2])
    assert drawn(axes, "snip")[1] == pytest.approx([1 + np.log10(2), 2 + np.log10(2)])
    assert drawn(axes, "fts")[1] == pytest.approx([1 + np.log10(2), np.nan], nan_ok=True)
    assert at_the_edge(axes, "fts") == pytest.approx([2], abs=0.4)
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "1"


def test_marks_of_methods_without_any_path_do_not_hide_each_other(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(**ONE, sparsity=(0.9, 0.99)).runs()
    runs = [record(spec) for spec in specs]
    runs = [msgspec.structs.replace(r, pruning=msgspec.structs.replace(r.pruning, effective_sparsity=1)) for r in runs]
    (axes,) = effective(panels(frame(runs))).axes
    (a, b), (c, d) = (at_the_edge(axes, method) for method in ("snip", "fts"))
    assert a < c < b < d


def test_curves_are_means_over_the_runs_that_reached_an_epoch(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(**ONE, sparsity=(0.9,)).runs()
    runs = [record(spec, accuracy=0.6 + 0.2 * spec.seed) for spec in specs]
    runs = [msgspec.structs.replace(run, curve=run.curve[:10] if run.spec.seed else run.curve) for run in runs]
    table = frame(runs)
    (axes,) = curves(panels(table)[0]).axes
    x, y = drawn(axes, "snip")
    assert list(x) == list(range(1, 16))
    assert y == pytest.approx([100 * (0.7 if epoch <= 10 else 0.6) * epoch / 15 for epoch in range(1, 16)])
    blind = [msgspec.structs.replace(epoch, validation_accuracy=None, train_accuracy=0.25) for epoch in runs[0].curve]
    held_out = frame([msgspec.structs.replace(runs[0], curve=tuple(blind))])
    assert accuracy_curves(held_out).tolist() == [[0.25] * 15]  # nothing held out: of the training images


def test_in_curves_what_collapsed_or_diverged_counts_at_chance(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(**ONE | {"seed": (0, 1, 2)}, sparsity=(0.9,)).runs()

    def ended(spec: RunSpec) -> RunRecord:
        if spec.seed == 2 or spec.method == "fts":
            return record(spec, "collapsed", curve=())
        run = record(spec, "diverged" if spec.seed else "done", 0.75)
        return msgspec.structs.replace(run, curve=run.curve[:10]) if spec.seed else run

    (axes,) = curves(panels(frame(map(ended, specs)))[0]).axes
    assert list(drawn(axes, "fts")[1]) == pytest.approx([10] * 15)
    of_done = [75 * epoch / 15 for epoch in range(1, 16)]
    expected = [(own + (own if i < 10 else 10) + 10) / 3 for i, own in enumerate(of_done)]
    assert list(drawn(axes, "snip")[1]) == pytest.approx(expected)


def test_what_papers_printed_is_drawn_before_there_is_a_run(grid: Callable[..., Grid]) -> None:
    (panel,) = panels(frame(grid(**ONE, sparsity=(0.9, 0.99)).runs()))
    rows = {"method": "snip", "sparsity": [0.9, 0.99], "mean": [0.8, 0.6], "empty_layers": [0, 2], "comparable": True}
    panel = dataclasses.replace(panel, printed=pd.DataFrame(rows))
    (axes,) = compression([panel]).axes
    x, y = drawn(axes, "snip")
    assert (list(x), list(y)) == (pytest.approx([10, 100]), [80, 60])
    assert "published only" in axes.get_title()
    (axes,) = critical([panel]).axes
    (bar,) = axes.lines
    assert "published only" in axes.get_title()
    assert [text.get_text() for text in critical([panel]).legends[0].texts] == ["published masks"]
    assert (bar.get_xdata()[0], bar.get_ydata()[0]) == (pytest.approx(style.position(0.9)), 0)


def test_what_papers_printed_is_drawn_where_they_printed_it_and_of_the_same_method_only(
    grid: Callable[..., Grid],
) -> None:
    (panel,) = panels(frame(grid(**ONE, sparsity=(0.9, 0.95, 0.99)).runs()))
    own = {"method": "snip", "sparsity": [0.9, 0.99], "mean": [0.8, 0.6], "empty_layers": [0, 2], "comparable": True}
    other = own | {"method": "fts", "comparable": False}
    dense = own | {"method": "dense", "sparsity": 0.0, "mean": [0.9, 0.9]}
    panel = dataclasses.replace(panel, printed=pd.concat(map(pd.DataFrame, (dense, own, other))))
    for figure in (accuracy([panel]), compression([panel])):
        lines = [line for line in figure.axes[0].lines if line.get_marker() not in (None, "None")]
        assert [np.asarray(line.get_ydata()).tolist() for line in lines] == [
            pytest.approx([80, np.nan, 60], nan_ok=True)
        ]
        assert [text.get_text() for text in figure.legends[0].texts] == ["snip", "published"]
    assert printed_critical(panel) == {"snip": 0.9}


@pytest.mark.parametrize(("lowest", "in_sight"), [(0.9, False), (0.3, True)])
def test_chance_is_in_sight_where_runs_come_near_it(
    grid: Callable[..., Grid], record: Callable[..., RunRecord], lowest: float, in_sight: bool
) -> None:
    specs = grid(**ONE, sparsity=(0.9, 0.99)).runs()
    parts = panels(frame([record(spec, accuracy=0.95 if spec.sparsity < 0.99 else lowest) for spec in specs]))
    for draw in (accuracy, compression):
        axes = draw(parts).axes[0]
        assert (axes.get_ylim()[0] < 10) == in_sight
        assert ("chance" in [text.get_text() for text in draw(parts).legends[0].texts]) == in_sight


def test_compressions_over_many_decades_have_a_label_each_decade(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(**ONE, sparsity=(0.5, 0.9, 0.999, 0.9999)).runs()
    (axes,) = compression(panels(frame(map(record, specs)))).axes
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low < tick < high] == [10, 100, 1000, 10000]


def test_ticks_have_no_exponent() -> None:
    assert [style.plain(value) for value in (1e-5, 0.25, 1.0, 5000.0)] == ["0.00001", "0.25", "1", "5000"]


def test_cost_is_the_seconds_of_one_mask_with_what_sparsities_share_and_the_share_of_training(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(**ONE, sparsity=(0.9, 0.98)).runs()

    def made(spec: RunSpec) -> RunRecord:
        run = record(spec, accuracy=0.8 if spec.sparsity == 0.9 else 0.6)
        seconds = (1.0 + spec.seed) * (1 if spec.sparsity == 0.9 else 0.1)  # the first run sorts the scores for all
        return msgspec.structs.replace(
            run, pruning=msgspec.structs.replace(run.pruning, scoring_seconds=seconds, flops_sparse=500_000)
        )

    one_mask, training = cost(panels(frame(map(made, specs)))[0]).axes
    assert drawn(one_mask, "fts") == (pytest.approx([1.5, 1.5]), pytest.approx([80, 60]))
    assert drawn(training, "fts") == (pytest.approx([25, 25]), pytest.approx([80, 60]))


def test_every_run_is_a_mark_over_each_metric_of_its_mask(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    def made(spec: RunSpec, number: int) -> RunRecord:
        run = record(spec, "collapsed" if number == 2 else "done", accuracy=0.8 - number / 100)
        metrics = {"live_unit_share": number / 10, "log10_paths": None if number == 2 else 10.0 - number}
        found = msgspec.structs.replace(run.pruning.mask_metrics, **metrics, gradient_norm=0.0)
        changes = {"mask_metrics": None if number == 0 else found}  # the first is of an earlier version
        return msgspec.structs.replace(run, pruning=msgspec.structs.replace(run.pruning, **changes))

    specs = grid(model=("vgg8",), method=("snip",), sparsity=(0.9, 0.98), seed=(0, 1, 2)).runs()
    specs = [spec for spec in specs if spec.method == "snip"]
    (panel,) = panels(frame(made(spec, number) for number, spec in enumerate(specs)))
    units, counts, _, gradients, _ = accuracy_and_mask_metrics(panel).axes
    assert drawn_marks(units) == pytest.approx({0.1: 79, 0.2: 10, 0.3: 77, 0.4: 76, 0.5: 75})
    assert drawn_marks(counts) == pytest.approx({9: 79, 7: 77, 6: 76, 5: 75})
    assert counts.get_title() == "rank correlation 1.00, at equal sparsity 1.00"
    assert [text.get_text() for text in gradients.texts] == ["no run with this metric yet"]


def drawn_marks(axes: Axes) -> dict[float, float]:
    """The y of every mark of snip by its x."""
    (line,) = [line for line in axes.lines if line.get_color() == method_style("snip").colour]
    return dict(zip(np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float), strict=True))


@pytest.mark.parametrize(
    ("values", "correlation"), [([1, 2, 9], -1.0), ([2, 1, 3], -0.5), ([1, 1, 1], np.nan), ([1, 2], np.nan)]
)
def test_a_rank_correlation_of_few_or_constant_values_is_not_a_number(values: list[int], correlation: float) -> None:
    runs = pd.DataFrame({"metric": values, "accuracy": [0.9, 0.8, 0.7][: len(values)]})
    assert rank_correlation(runs, "metric") == pytest.approx(correlation, nan_ok=True)


def test_variants_are_drawn_as_their_difference_to_the_base(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(**ONE | {"seed": (0, 1, 2)}, sparsity=(0.9, 0.98), sanity=("none", "shuffle")).runs()
    runs = [record(spec, accuracy=0.8 - 0.1 * (spec.sanity == "shuffle") - 0.01 * spec.seed) for spec in specs]
    (axes,) = draw_variants(Study(panels(frame(runs)))).axes
    for method in ("snip", "fts"):
        (line,) = [line for line in axes.lines if line.get_color() == method_style(method).colour]
        assert np.asarray(line.get_ydata()).tolist() == pytest.approx([-10, -10])
    assert "sanity shuffle against none" in axes.get_title().replace("\n", " ")


FIGURES = {
    "compression": compression,
    "critical": critical,
    "effective": effective,
    "profiles": lambda parts: profiles(parts[0]),
    "curves": lambda parts: curves(parts[0]),
    "cost": lambda parts: cost(parts[0]),
    "accuracy_and_mask_metrics": lambda parts: accuracy_and_mask_metrics(parts[0]),
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("runs", ["none", "failed", "one"])
def test_panels_with_nothing_say_so(
    grid: Callable[..., Grid], record: Callable[..., RunRecord], tmp_path: Path, name: str, runs: str
) -> None:
    specs = grid(model=("vgg8",), method=("snip",), sparsity=(0.9,), seed=(0,)).runs()
    table = frame(
        record(spec, "failed") if runs == "failed" else record(spec) if runs == "one" else spec for spec in specs
    )
    figure = FIGURES[name](panels(table))
    said = [text.get_text() for axes in figure.axes for text in axes.texts if text.get_text().startswith("no ")]
    assert bool(said) == (runs != "one")
    style.save(figure, tmp_path / name)  # any warning is an error


@pytest.mark.parametrize("name", FIGURES)
def test_legends_and_labels_do_not_cover_data(
    grid: Callable[..., Grid], record: Callable[..., RunRecord], name: str
) -> None:
    methods = ("random", "magnitude", "snip", "grasp", "synflow", "fts", "a_method_with_quite_a_long_name")
    specs = grid(method=methods, sparsity=(0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)).runs()
    figure = FIGURES[name](panels(frame(map(record, specs))))
    figure.draw_without_rendering()
    boxes = [axes.get_window_extent() for axes in figure.axes if axes.axison]
    for legend in figure.legends:
        assert not any(legend.get_window_extent().overlaps(box) for box in boxes)
        assert figure.bbox.x0 <= legend.get_window_extent().x0
        assert legend.get_window_extent().x1 <= figure.bbox.x1
    assert min(box.height for box in boxes) > 0.4 * figure.dpi
    assert min(box.width for box in boxes) > 1.5 * figure.dpi
    for axes in figure.axes:
        for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
            found = [label.get_window_extent() for label in ticks if label.get_text()]
            assert not any(a.overlaps(b) for a, b in itertools.combinations(found, 2)), name


def test_a_few_of_many_are_spread_evenly() -> None:
    assert spread([1, 2, 3, 4, 5, 6, 7], 4) == [1, 3, 5, 7]
    assert spread([1, 2], 4) == [1, 2]
    assert spread([], 4) == []


@pytest.mark.parametrize("ends", [(0.13, 0.19), (6, 9), (1, 6.1), (0.003, 400)])
def test_a_logarithmic_axis_has_ticks_however_short_it_is(ends: tuple[float, float]) -> None:
    axes = style.new_figure(3, 2).subplots()
    axes.set_xscale("log")
    axes.set_xlim(*ends)
    multiples.log_axis(axes)
    low, high = axes.get_xlim()
    assert low <= ends[0] < ends[1] <= high
    assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 2


def test_bars_stay_beside_the_only_sparsity() -> None:
    axes = Figure().subplots()
    x = style.position([0.99])
    bars = [x + multiples.dodge(number, 2, style.smallest_gap(x)) for number in range(2)]
    for bar in bars:
        axes.errorbar(bar, [0.5], [0.1])
    style.sparsity_axis(axes, [0.99], 2.6)
    low, high = axes.get_xlim()
    assert (high + low) / 2 == pytest.approx(float(x[0]))
    assert abs(bars[1] - bars[0]) < 0.2 * (high - low)
