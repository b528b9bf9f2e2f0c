"""Overlaps against brute force and simulation; runs without a stored mask are left out and counted."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from pbt_bench.analysis.figures.overlap import matrix
from pbt_bench.analysis.figures.overlap import overlap as draw_overlap
from pbt_bench.analysis.pages.report import write_report
from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.statistics import method_styles
from pbt_bench.analysis.statistics.jaccard import Masks, Overlaps, mask_overlaps, overlap_sentence
from pbt_bench.analysis.statistics.panel import Panel, panels
from pbt_bench.analysis.statistics.run_facts import layer_zeros
from pbt_bench.running.record import Layer, RunRecord, digest
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec

SHAPES = {"conv.weight": (5, 3, 3, 3), "deep.weight": (7, 11), "fc.weight": (4, 9)}


def spec_of(method: str, sparsity: float = 0.9, seed: int = 0) -> RunSpec:
    return RunSpec(dataset="d", model="m", method=method, sparsity=sparsity, seed=seed)


def random_masks(rng: np.random.Generator, share: float) -> Masks:
    """Masks that keep `share` of the first layer, less of the later ones."""
    shares = (share, share / 2, share / 5)
    return {name: rng.random(shape) < part for (name, shape), part in zip(SHAPES.items(), shares, strict=True)}


def empty_masks() -> Masks:
    return {name: np.zeros(shape, dtype=bool) for name, shape in SHAPES.items()}


def flat(masks: Masks) -> NDArray[np.bool_]:
    return np.concatenate([mask.ravel() for mask in masks.values()])


def study(store: Store, record: Callable[..., RunRecord], masks: Mapping[RunSpec, Masks | None]) -> Panel:
    """Write a run for every spec of `masks` with its masks (None: without), and return their panel."""
    store.prepare()
    runs = []
    for spec, own in masks.items():
        some = own or empty_masks()
        layers = tuple(
            Layer(name=name, shape=mask.shape, prunable=mask.size, kept=int(mask.sum()), zero_scores=mask.size // 9)
            for name, mask in some.items()
        )
        run = record(spec)
        changes = {"prunable": flat(some).size, "kept": int(flat(some).sum()), "mask_digest": digest(some)}
        run = msgspec.structs.replace(run, pruning=msgspec.structs.replace(run.pruning, layers=layers, **changes))
        store.write(run, own)
        runs.append(run)
    (panel,) = panels(frame(runs))
    return panel


def stored_masks(store: Store, run_id: str) -> Masks | None:
    record = store.read(run_id)
    assert record is not None
    return store.read_masks(record)


def overlaps_of(tmp_path: Path, record: Callable[..., RunRecord], masks: Mapping[RunSpec, Masks | None]) -> Overlaps:
    store = Store(tmp_path)
    return mask_overlaps(study(store, record, masks).runs, partial(stored_masks, store))


def one_pair(tmp_path: Path, record: Callable[..., RunRecord], a: Masks, b: Masks) -> Any:
    (row,) = overlaps_of(tmp_path, record, {spec_of("snip"): a, spec_of("fts"): b}).table.itertuples()
    return row


def test_against_brute_force_averaged_over_the_seeds_both_have(
    tmp_path: Path, record: Callable[..., RunRecord]
) -> None:
    rng = np.random.default_rng(0)
    masks = {
        spec_of(method, sparsity, seed): random_masks(rng, 1 - sparsity)
        for method in ("zebra", "fts", "random", "snip")
        for sparsity in (0.9, 0.5)
        for seed in (0, 1, 2)
        if (method, sparsity, seed) != ("fts", 0.9, 1)
    }
    table = overlaps_of(tmp_path, record, masks).table
    order = ["random", "snip", "fts", "zebra"]
    pairs = [(sparsity, *pair) for sparsity in (0.5, 0.9) for pair in itertools.combinations(order, 2)]
    assert list(zip(table["sparsity"], table["method_a"], table["method_b"], strict=True)) == pairs
    row: Any
    for row in table.itertuples():
        measured, chance = [], []
        for seed in range(3):
            a, b = (masks.get(spec_of(method, row.sparsity, seed)) for method in (row.method_a, row.method_b))
            if a is None or b is None:
                continue
            first, second = (set(np.flatnonzero(flat(each)).tolist()) for each in (a, b))
            measured.append(len(first & second) / len(first | second))
            shared = sum(a[name].sum() * b[name].sum() / a[name].size for name in SHAPES)
            chance.append(shared / (len(first) + len(second) - shared))
        assert row.n == len(measured) == (2 if row.sparsity == 0.9 and "fts" in (row.method_a, row.method_b) else 3)
        assert row.jaccard == pytest.approx(np.mean(measured))
        assert row.chance == pytest.approx(np.mean(chance))


def test_chance_is_what_random_masks_of_the_same_layers_give(tmp_path: Path, record: Callable[..., RunRecord]) -> None:
    rng = np.random.default_rng(1)
    a, b = random_masks(rng, 0.6), random_masks(rng, 0.3)
    simulated = []
    for _ in range(2000):
        first, second = (flat({name: rng.permuted(mask.ravel()) for name, mask in each.items()}) for each in (a, b))
        simulated.append((first & second).sum() / (first | second).sum())
    error = np.std(simulated) / np.sqrt(len(simulated))
    own = one_pair(tmp_path, record, a, b).chance
    assert own == pytest.approx(np.mean(simulated), abs=4 * error, rel=1 / (flat(a).sum() + flat(b).sum()))
    # The layers matter: spread evenly over the network, the same numbers of weights would meet less often.
    even = flat(a).sum() * flat(b).sum() / flat(a).size
    assert own > 1.2 * even / (flat(a).sum() + flat(b).sum() - even)


def test_identical_disjoint_and_empty_masks(tmp_path: Path, record: Callable[..., RunRecord]) -> None:
    some = random_masks(np.random.default_rng(2), 0.5)
    others = {name: ~mask for name, mask in some.items()}
    same = one_pair(tmp_path / "same", record, some, some)
    assert same.jaccard == 1
    assert 0 < same.chance < 1
    assert one_pair(tmp_path / "disjoint", record, some, others).jaccard == 0
    one_empty = one_pair(tmp_path / "one", record, some, empty_masks())
    assert (one_empty.jaccard, one_empty.chance) == (0, 0)
    both = one_pair(tmp_path / "both", record, empty_masks(), empty_masks())
    assert (both.jaccard, both.chance) == (1, 1)


def test_runs_without_a_stored_mask_are_left_out_and_counted(tmp_path: Path, record: Callable[..., RunRecord]) -> None:
    rng = np.random.default_rng(3)
    masks = {spec_of(method, seed=seed): random_masks(rng, 0.5) for method in ("snip", "fts") for seed in (0, 1)}
    found = overlaps_of(tmp_path, record, masks | {spec_of("fts", seed=1): None, spec_of("grasp"): None})
    assert (found.finished, found.unread) == (5, 2)
    assert list(found.table["n"]) == [1]
    none = overlaps_of(tmp_path / "none", record, dict.fromkeys(masks))
    assert (none.finished, none.unread, len(none.table)) == (4, 4, 0)
    assert overlap_sentence(none).startswith("No two methods")


def test_a_single_method_has_no_pair(tmp_path: Path, record: Callable[..., RunRecord]) -> None:
    masks = {spec_of("snip", seed=seed): random_masks(np.random.default_rng(seed), 0.5) for seed in range(3)}
    assert overlaps_of(tmp_path, record, masks).table.empty


def test_the_sentence_names_the_pair_furthest_above_chance_at_the_highest_sparsity(
    tmp_path: Path, record: Callable[..., RunRecord]
) -> None:
    rng = np.random.default_rng(4)
    masks = {spec_of(m, s): random_masks(rng, 1 - s) for m in ("magnitude", "snip", "fts") for s in (0.5, 0.8)}
    masks[spec_of("fts", 0.5)] = masks[spec_of("snip", 0.5)]
    masks[spec_of("magnitude", 0.8)] = masks[spec_of("fts", 0.8)]
    found = overlaps_of(tmp_path, record, masks)
    rows = {(row.sparsity, row.method_a, row.method_b): row for row in found.table.itertuples()}
    best, known = rows[0.8, "magnitude", "fts"], rows[0.8, "snip", "fts"]
    assert overlap_sentence(found) == (
        f"At sparsity 0.8, magnitude and fts share the most beyond chance: J = 1.00, where chance gives "
        f"{best.chance:.2f}. snip and fts: J = {known.jaccard:.2f}, where chance gives {known.chance:.2f}."
    )
    masks[spec_of("fts", 0.8)] = masks[spec_of("snip", 0.8)]
    masks[spec_of("magnitude", 0.8)] = {name: ~mask for name, mask in masks[spec_of("fts", 0.8)].items()}
    said = overlap_sentence(overlaps_of(tmp_path / "b", record, masks))
    assert said.startswith("At sparsity 0.8, snip and fts share the most beyond chance: J = 1.00")
    assert said.count("fts") == 1
    del masks[spec_of("fts", 0.8)]
    assert "no two methods share more than chance" in overlap_sentence(overlaps_of(tmp_path / "c", record, masks))


def test_measured_is_below_the_diagonal_and_chance_above(tmp_path: Path, record: Callable[..., RunRecord]) -> None:
    rng = np.random.default_rng(5)
    masks = {spec_of(method): random_masks(rng, 0.5) for method in ("snip", "fts", "synflow")}
    found = overlaps_of(tmp_path, record, masks)
    image = matrix(found.table, ["snip", "synflow", "fts", "absent"])
    pair = found.table[(found.table["method_a"] == "snip") & (found.table["method_b"] == "fts")].iloc[0]
    assert (image[2, 0], image[0, 2]) == (pair["jaccard"], pair["chance"])
    assert np.isnan(np.diag(image)).all()
    assert np.isnan(image[3]).all()


@pytest.mark.parametrize("methods", [1, 2, 6, 13, 22])
def test_the_figure_holds_any_number_of_methods_without_overlapping_names(
    tmp_path: Path, record: Callable[..., RunRecord], methods: int
) -> None:
    rng = np.random.default_rng(6)
    known = [name for name in method_styles._KNOWN if name != "dense"]
    names = [*known[: methods - 1], "a_rather_long_name_of_a_user's_own"]
    masks = {spec_of(name, sparsity): random_masks(rng, 0.5) for name in names for sparsity in (0.9, 0.98, 0.99)}
    store = Store(tmp_path)
    panel = study(store, record, masks)
    found = mask_overlaps(panel.runs, partial(stored_masks, store))
    figure = draw_overlap(dataclasses.replace(panel, overlaps=found))
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= 7, "a page"
    assert all(text.get_fontsize() >= 6 for axes in figure.axes for text in axes.texts)
    shown = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in shown] == [f"sparsity {s}" for s in (0.9, 0.98, 0.99)] * (methods > 1)
    for axes in shown:
        assert len(axes.texts) == (0 if methods == 13 else methods * (methods - 1)), "where a cell has the width"
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert all(upper.y0 >= lower.y1 - 1 for upper, lower in itertools.pairwise(boxes))


def test_the_page_has_the_section_and_the_same_masks_give_the_same_bytes(
    tmp_path: Path, record: Callable[..., RunRecord]
) -> None:
    rng = np.random.default_rng(8)
    specs = [spec_of(method, seed=seed) for method in ("snip", "fts", "my") for seed in (0, 1)]
    masks: dict[RunSpec, Masks | None] = {spec: random_masks(rng, 0.5) for spec in specs}
    masks[spec_of("my", seed=1)] = None
    store = Store(tmp_path / "in")
    panel = study(store, record, masks)
    pages = [write_report("demo", list(masks), store, tmp_path / take) for take in ("one", "two")]
    text = re.sub(r"\s+", " ", pages[0].read_text())
    assert ">Do methods keep the same weights?" in text
    assert "1 of 6 finished runs have no stored mask and are left out." in text
    assert "share the most beyond chance" in text
    made = {
        f"figures/overlap-{panel.slug}.png",
        f"figures/overlap-{panel.slug}.svg",
        f"tables/overlap-{panel.slug}.csv",
    }
    for name in made:
        assert f'href="{name}"' in text
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert pages[0].read_bytes() == pages[1].read_bytes()
    with (tmp_path / f"one/tables/overlap-{panel.slug}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["sparsity", "method_a", "method_b", "jaccard", "chance", "n"]
    assert [row["n"] for row in rows if row["method_a"] == "snip"] == ["2", "1"]


def test_a_study_without_masks_has_no_figure_but_says_so(tmp_path: Path, record: Callable[..., RunRecord]) -> None:
    store = Store(tmp_path / "in")
    masks = {spec_of(method): None for method in ("snip", "fts")}
    study(store, record, masks)
    page = write_report("demo", list(masks), store, tmp_path / "out")
    assert "2 of 2 finished runs have no stored mask and are left out." in page.read_text()
    assert list((tmp_path / "out").rglob("overlap*")) == []


def test_zero_scores_by_layer_and_method(tmp_path: Path, record: Callable[..., RunRecord]) -> None:
    def run(method: str, seed: int, zeros: Sequence[int]) -> RunRecord:
        made = record(spec_of(method, seed=seed))
        layers = tuple(
            Layer(name=f"net.{i}.weight", shape=(20000,), prunable=20000, kept=9, zero_scores=count)
            for i, count in enumerate(zeros)
        )
        return msgspec.structs.replace(made, pruning=msgspec.structs.replace(made.pruning, layers=layers))

    runs: list[RunRecord | RunSpec]
    runs = [run("fts", 0, (0, 100, 1)), run("fts", 1, (0, 300, 0)), run("random", 0, (0, 0, 0)), spec_of("snip")]
    (panel,) = panels(frame(runs))
    table = layer_zeros(panel)
    assert table.methods == ["random", "fts"]
    assert table.rows == [("0", ["0", "0"]), ("1", ["0", "1.00"]), ("2", ["0", "< 0.01"])]
    assert not table.none
    (panel,) = panels(frame(runs[2:]))
    assert layer_zeros(panel).none
    (panel,) = panels(frame(runs[3:]))
    assert layer_zeros(panel).rows == []
