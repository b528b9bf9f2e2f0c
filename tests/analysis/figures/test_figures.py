"""Looks do not depend on the company; the pictures show every run; the same records give the same bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import style
from pbt_bench.analysis.figures.accuracy import accuracy
from pbt_bench.analysis.figures.collapse import collapse
from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.records.published import load_published
from pbt_bench.analysis.statistics import method_styles
from pbt_bench.analysis.statistics.labels import layer_labels, tick_label
from pbt_bench.analysis.statistics.literature import with_published
from pbt_bench.analysis.statistics.method_styles import method_style
from pbt_bench.analysis.statistics.panel import panels
from pbt_bench.analysis.statistics.study import with_bounds
from pbt_bench.running.record import Layer, RunRecord
from pbt_bench.spec import Grid, Recipe, RunSpec

RECIPE = Recipe(schedule="multistep", milestones=(60, 120), gamma=0.2, learning_rate=0.01, batch_size=512)  # as FTS's
METHODS = ("random", "magnitude", "snip", "grasp", "synflow", "fts")


def legend_colours(figure: Figure) -> dict[str, Any]:
    (legend,) = figure.legends
    colours = {text.get_text(): line.get_color() for text, line in zip(legend.texts, legend.get_lines(), strict=True)}
    return {name: colour for name, colour in colours.items() if name not in ("dense", "chance")}


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("subset", [METHODS, ("fts",), ("synflow", "snip"), ("my_own", "fts", "random")])
def test_a_method_has_the_same_colour_in_every_figure(
    grid: Callable[..., Grid], record: Callable[..., RunRecord], subset: tuple[str, ...]
) -> None:
    figure = accuracy(panels(frame(map(record, grid(method=subset).runs()))))
    assert legend_colours(figure) == {method: method_style(method).colour for method in subset}


def test_known_methods_differ_in_grey_too() -> None:
    styles = {name: method_style(name) for name in method_styles._KNOWN}
    assert len({one.colour for one in styles.values()}) == len(styles)
    assert len({(one.marker, one.dash) for one in styles.values()}) == len(styles)


def test_a_users_method_never_looks_like_a_known_one() -> None:
    known = [method_style(name) for name in method_styles._KNOWN]
    for number in range(200):
        own = method_style(f"method_{number}")
        assert own == method_style(f"method_{number}")
        assert own.colour not in {look.colour for look in known}
        assert own.marker not in {look.marker for look in known}


def test_a_label_never_rounds_to_one_and_log_spaced_ones_differ() -> None:
    spaced = [1 - 10 ** (-k / 4) for k in range(1, 25)]
    shown = [tick_label(sparsity) for sparsity in spaced]
    assert len(set(shown)) == 24
    assert shown[-2:] == ["0.9999982", "0.999999"]
    assert [tick_label(s) for s in (0, 0.5, 0.995, 0.995278, 0.0001)] == [
        "0",
        "0.5",
        "0.995",
        "0.9953",
        "0.0001",
    ]


def test_high_sparsities_stand_apart() -> None:
    places = style.position([0.9, 0.98, 0.99, 0.995])
    assert np.allclose(places, [1, 1.69897, 2, 2.30103])


@pytest.mark.parametrize(
    "sparsities",
    [(0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995), tuple(1 - 0.8**k for k in range(1, 31)), (0.981, 0.982, 0.983), (0.9,)],
)
def test_tick_labels_do_not_overlap_and_the_highest_sparsity_is_labelled(
    grid: Callable[..., Grid], record: Callable[..., RunRecord], sparsities: tuple[float, ...]
) -> None:
    runs = grid(model=("vgg8",), method=("snip",), sparsity=sparsities, seed=(0,)).runs()
    figure = accuracy(panels(frame(map(record, runs))))
    figure.draw_without_rendering()
    labels = [label for label in figure.axes[-1].get_xticklabels() if label.get_text()]
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert labels[-1].get_text() == tick_label(max(sparsities))


def test_every_seed_is_a_point_and_a_run_that_collapsed_is_hollow(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(model=("vgg8",), method=("snip", "fts"), sparsity=(0.9, 0.98)).runs()
    collapsed = specs[-1]
    runs = [record(spec, "collapsed", 0.1) if spec == collapsed else record(spec) for spec in specs]
    axes, _ = accuracy(panels(frame(runs))).axes
    points = [line for line in axes.lines if line.get_linestyle() == "None" and np.size(line.get_xdata())]
    hollow = [line for line in points if to_hex(line.get_markerfacecolor()) == "#ffffff"]
    assert sum(int(np.size(line.get_xdata())) for line in points) == 12
    assert [np.asarray(line.get_ydata()).tolist() for line in hollow] == [[10.0]]


def test_means_carry_the_mark_of_their_method_and_an_interval_that_accuracies_can_have(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(model=("vgg8",), method=("snip",), sparsity=(0.9, 0.98), seed=(0, 1)).runs()
    runs = [record(spec, accuracy=(0.5 if spec.sparsity < 0.95 else 0.9) + 0.02 * spec.seed) for spec in specs]
    axes, _ = accuracy(panels(frame(runs))).axes
    look = method_style("snip")
    (line,) = [line for line in axes.lines if line.get_color() == look.colour and line.get_linestyle() != "None"]
    assert line.get_marker() == look.marker
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([51, 91])
    (bars,) = axes.collections
    half = 12.706 * np.std([0, 2], ddof=1) / np.sqrt(2)  # Student t of two seeds
    ends = [segment[:, 1] for segment in bars.get_segments()]  # type: ignore[attr-defined]
    assert np.array(ends) == pytest.approx(np.array([[51 - half, 51 + half], [91 - half, 100]]), rel=1e-3)


def test_two_panels_stand_side_by_side_on_a_page_and_one_fits_a_column(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    runs = map(record, grid(model=("vgg8", "resnet8", "resnet20"), method=("snip",), seed=(0,)).runs())
    found = panels(frame(runs))
    figure = accuracy(found)
    figure.draw_without_rendering()
    boxes = {(axes.get_title(), axes.get_ylabel()[:4]): axes.get_window_extent() for axes in figure.axes}
    titles = [title for title, label in boxes if label == "test"]
    first, second = boxes[titles[0], "test"], boxes[titles[1], "test"]
    assert figure.get_figwidth() == 7
    assert len(figure.axes) == 6
    assert (first.y0, first.height) == pytest.approx((second.y0, second.height))
    assert first.x1 < second.x0
    assert accuracy(found[:1]).get_figwidth() == 3.5


def test_lines_join_the_true_means_and_only_bars_are_shifted(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(model=("vgg8",), method=METHODS, sparsity=(0.9, 0.98, 0.99), seed=(0, 1)).runs()
    for axes in accuracy(panels(frame(map(record, specs)))).axes:
        lines = [line for line in axes.lines if line.get_linestyle() != "None" and np.size(line.get_xdata()) == 3]
        assert len(lines) == len(METHODS)
        for line in lines:
            assert np.asarray(line.get_xdata()) == pytest.approx(style.position([0.9, 0.98, 0.99]))
        starts = [bars.get_segments()[0][0, 0] for bars in axes.collections]  # type: ignore[attr-defined]
        assert len(set(starts)) == len(METHODS)
        assert max(abs(start - 1) for start in starts) < 0.15 * 0.30103


def test_differences_are_those_to_the_dense_network_of_the_same_seed(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(model=("vgg8",), method=("snip",), sparsity=(0.9, 0.98), seed=(0, 1)).runs()
    level = {0.0: 0.9, 0.9: 0.89, 0.98: 0.5}
    runs = [record(spec, accuracy=level[spec.sparsity] + 0.05 * spec.seed) for spec in specs]
    _, axes = accuracy(panels(frame(runs))).axes
    (line,) = [line for line in axes.lines if line.get_color() == method_style("snip").colour]
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([-1, -40])
    (bars,) = axes.collections
    assert [np.ptp(segment[:, 1]) for segment in bars.get_segments()] == pytest.approx([0, 0], abs=1e-9)  # type: ignore[attr-defined]
    without = [run for run in runs if run.spec.method != "dense"]
    assert len(accuracy(panels(frame(without))).axes) == 1


def test_every_sparsity_is_labelled(grid: Callable[..., Grid], record: Callable[..., RunRecord]) -> None:
    for sparsities in ((0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995), tuple(1 - 0.8**k for k in range(1, 19))):
        runs = grid(method=("snip",), sparsity=sparsities, seed=(0,)).runs()
        axes = accuracy(panels(frame(map(record, runs)))).axes[-1]
        assert [label.get_text() for label in axes.get_xticklabels()] == list(map(tick_label, sparsities))


def test_dense_and_chance_are_labelled_with_their_level(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(model=("vgg8",), method=("snip",)).runs()
    runs = [record(spec, accuracy=0.9 if spec.method == "dense" else 0.9 - 0.6 * spec.sparsity) for spec in specs]
    figure = accuracy(panels(frame(runs)))
    assert texts(figure) == ["90.0", "10.0"]
    assert [text.get_text() for text in figure.legends[0].texts] == ["snip", "dense", "chance"]


def test_published_means_are_drawn_beside_the_runs_or_alone(record: Callable[..., RunRecord]) -> None:
    published = load_published(Path(__file__).parents[3] / "results/published")
    specs = [
        RunSpec(dataset="cifar10", model="resnet18", method="fts", sparsity=sparsity, seed=0, recipe=RECIPE)
        for sparsity in (0.9, 0.98)
    ]
    for runs in (specs, list(map(record, specs))):
        (axes,) = accuracy(with_published(panels(frame(runs)), published)).axes
        (line,) = [line for line in axes.lines if line.get_label() == "published"]
        assert np.asarray(line.get_ydata()).tolist() == pytest.approx([90.55, 87.24])
        assert (line.get_color(), line.get_marker()) == method_style("fts")[:2], "known in grey too"
        assert line.get_markerfacecolor() == "white"
        assert ("(published only)" in axes.get_title()) == (runs is specs)


def with_kept(record: Callable[..., RunRecord], spec: RunSpec, kept: Sequence[int]) -> RunRecord:
    """The record of a run that keeps so many weights per layer of 100."""
    run = record(spec)
    layers = tuple(
        Layer(name=f"layer{i}.weight", shape=(100,), prunable=100, kept=k, zero_scores=0) for i, k in enumerate(kept)
    )
    pruning = msgspec.structs.replace(run.pruning, layers=layers, collapsed_layers=sum(k == 0 for k in kept))
    return msgspec.structs.replace(run, pruning=pruning)


def test_collapsed_layers_are_crossed_with_the_number_of_seeds(record: Callable[..., RunRecord]) -> None:
    specs = [RunSpec(dataset="d", model="m", method="snip", sparsity=0.9, seed=seed) for seed in range(3)]
    kept = [(10, 0, 0), (20, 0, 4), (30, 0, 0)]
    (panel,) = panels(frame(map(with_kept, [record] * 3, specs, kept)))
    figure = collapse(panel)
    axes = figure.axes[0]
    crosses = {(text.get_position()[1], text.get_text()) for text in axes.texts}
    assert crosses == {(1.5, "×"), (2.5, "× 2/3")}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["layer0", "layer1", "layer2"]
    assert np.asarray(axes.collections[0].get_array()).ravel() == pytest.approx([0.2, 0, 0.04 / 3])


@pytest.mark.parametrize("count", [1, 5, 12, 30])
def test_heat_maps_fit_a_page_and_can_be_read_there(record: Callable[..., RunRecord], count: int) -> None:
    sparsities = [1 - 0.8**k for k in range(1, count + 1)]
    specs = [
        RunSpec(dataset="d", model="m", method=method, sparsity=sparsity, seed=seed)
        for method in METHODS
        for sparsity in sparsities
        for seed in range(2)
    ]
    (panel,) = panels(frame([with_kept(record, spec, (10, 9 * spec.seed)) for spec in specs]))
    figure = collapse(panel)
    assert figure.get_figwidth() <= 7
    shown = [text for axes in figure.axes for text in (*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels())]
    assert min(text.get_fontsize() for text in shown) >= 6
    figure.draw_without_rendering()
    labels = [label.get_window_extent() for label in figure.axes[len(METHODS) - 1].get_xticklabels()]
    assert len(labels) == count
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(labels))


def test_without_collapse_there_is_no_cross(grid: Callable[..., Grid], record: Callable[..., RunRecord]) -> None:
    specs = grid(model=("vgg8",), method=("random",), sparsity=(0.5,)).runs()
    (panel,) = panels(frame(map(record, specs)))
    assert texts(collapse(panel)) == []


def test_upper_bounds_stand_beside_the_methods_at_initialization(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(
        model=("vgg8",), method=("magnitude", "fts"), sparsity=(0.9, 0.98), seed=(0, 1), rewind=(False, True),
        warmup=("none", "2 epochs", "15 epochs"),
    ).runs()  # fmt: skip
    level = {("none", False): 0.5, ("2 epochs", False): 0.6, ("2 epochs", True): 0.6}
    level |= {("15 epochs", False): 0.8, ("15 epochs", True): 0.7}
    runs = [record(spec, accuracy=level[spec.warmup, spec.rewind] - spec.seed / 100) for spec in specs]
    found = {panel.setting: panel for panel in with_bounds(panels(frame(runs)))}
    bounds = found["warmup none, rewind no"].bounds
    assert {name: means.round(6).to_dict() for name, means in bounds.items()} == {
        "magnitude after training": {0.9: 0.795, 0.98: 0.795},
        "lottery ticket (rewound)": {0.9: 0.695, 0.98: 0.695},
    }, "a warm-up of 2 of 15 epochs is no bound"
    assert all(not panel.bounds for setting, panel in found.items() if "warmup none" not in setting)
    figure = accuracy([found["warmup none, rewind no"]])
    assert [text.get_text() for text in figure.legends[0].get_texts()][:4] == ["magnitude", "fts", *bounds]
    drawn = [line for line in figure.axes[0].lines if line.get_color() in ("#111111", "#2b2b2b")]
    assert [line.get_ydata().round(6).tolist() for line in drawn] == [[79.5, 79.5], [69.5, 69.5]]


def test_panels_without_a_run_say_so(grid: Callable[..., Grid]) -> None:
    found = panels(frame(grid(model=("vgg8",), method=("snip", "fts")).runs()))
    assert texts(accuracy(found)) == ["no run with an accuracy yet"]
    assert texts(collapse(found[0])) == ["no run yet"] * 2


def test_layer_names_lose_what_they_share() -> None:
    assert layer_labels(["net.a.conv.weight", "net.b.conv.weight"]) == ["a.conv", "b.conv"]
    assert layer_labels(["fc.weight"]) == ["fc"]
    assert len(layer_labels(["x." + "very_long_" * 9, "y"])[0]) <= 26


@pytest.mark.parametrize("draw", [accuracy, lambda found: collapse(found[0])])
def test_the_same_records_give_the_same_bytes(
    tmp_path: Path, grid: Callable[..., Grid], record: Callable[..., RunRecord], draw: Callable[..., Figure]
) -> None:
    runs = [record(spec) for spec in grid(model=("vgg8",), method=("snip", "my_own")).runs()]
    svgs = [style.save(draw(panels(frame(runs))), tmp_path / f"take{take}") for take in (1, 2)]
    assert svgs[0] == svgs[1] == (tmp_path / "take1.svg").read_bytes()
    assert (tmp_path / "take1.png").read_bytes() == (tmp_path / "take2.png").read_bytes()
    assert b"<dc:date>" not in svgs[0]


def test_of_many_seeds_the_lowest_the_quartiles_and_the_highest_are_drawn(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid(model=("vgg8",), method=("snip",), sparsity=(0.9, 0.98), seed=tuple(range(50))).runs()
    runs = [record(spec, accuracy=0.5 + 0.005 * spec.seed) for spec in specs]
    axes, _ = accuracy(panels(frame(runs))).axes
    points = [line for line in axes.lines if line.get_linestyle() == "None" and np.size(line.get_xdata())]
    assert [np.round(np.asarray(line.get_ydata(), float), 6).tolist() for line in points] == [
        2 * [50, 56.125, 62.25, 68.375, 74.5]
    ]


def test_a_saved_svg_is_the_picture_that_was_drawn_without_the_names_in_comments(tmp_path: Path) -> None:
    figure = style.new_figure(2, 1)
    axes = figure.subplots()
    axes.plot([1, 2, 3], [1, 1.23456789, 2])
    axes.set_title("a-->name<!--")
    root = ElementTree.fromstring(style.save(figure, tmp_path / "x"))
    assert (tmp_path / "x.svg").read_bytes().count(b"name") == 0
    paths = [element.get("d") for element in root.iter("{http://www.w3.org/2000/svg}path")]
    (line,) = [path.split() for path in paths if path and path.count("L") == 2 and "M" in path and path.count(".") > 4]
    x, y = np.array([word for word in line if word not in "ML"], float).reshape(3, 2).T
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.02)
    assert (y[1] - y[0]) / (y[2] - y[0]) == pytest.approx(0.23456789, abs=0.002)


def test_an_svg_in_dark_mode_has_light_text_and_colours_that_stand_out(
    tmp_path: Path, grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    runs = [record(spec) for spec in grid(model=("vgg8",), method=("snip", "iterative_snip")).runs()]
    svg = style.save(accuracy(panels(frame(runs))), tmp_path / "x").decode()
    assert svg.count("@media (prefers-color-scheme:dark)") == 1
    for kind, old in (("fill", "#ffffff"), ("fill", "#262626"), ("stroke", "#004c78")):
        assert f"[style*='{kind}: {old}']{{{kind}:{style.dark(old)}!important}}" in svg
    assert style.dark("#ffffff") == "#1c2226"
    assert style.dark("#e69f00") == "#e69f00", "bright colours stay"
    shown = [style.dark(look.colour) for look in map(method_style, method_styles._KNOWN)]
    luminances = [float(style._luminance(np.array(to_rgb(colour)))) for colour in (*shown, "#1c2226")]
    assert min(luminances[:-1]) + 0.05 >= 2.9 * (luminances[-1] + 0.05)
