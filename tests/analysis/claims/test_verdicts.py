"""Tests of verdicts on made-up records: every verdict, its numbers, and that other records give other verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf, isnan
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pbt_bench.analysis.claims.claim_figure import draw_claim
from pbt_bench.analysis.claims.claim_file import Claim, ClaimTest
from pbt_bench.analysis.claims.claim_texts import plain_data, verdict_text
from pbt_bench.analysis.claims.evidence import Evidence, _best, _Part, load_evidence, values_of
from pbt_bench.analysis.claims.verdicts import Finding, decide, judge
from pbt_bench.analysis.pages.claims import ClaimEntry
from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.statistics.effects import effect
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import Grid, RunSpec

SEEDS = range(8)
SHIFTS = np.array([3, -3, 2, -2, 1, -1, 0, 0]) / 1000  # of the seeds, mean zero
Records = Callable[..., Evidence]


@pytest.fixture
def evidence(record: Callable[..., RunRecord]) -> Records:
    """Return a function that makes the runs of methods with given mean accuracies, which differ by seed."""

    def make(accuracies: Mapping[str, float], sparsities: Sequence[float] = (0.9,), **fields: Any) -> Evidence:
        runs = []
        for number, (method, mean) in enumerate(accuracies.items()):
            for sparsity in sparsities:
                for seed, shift in zip(SEEDS, np.roll(SHIFTS, number), strict=True):
                    spec = RunSpec(
                        dataset="digits", model="vgg8", method=method, sparsity=sparsity, seed=seed, **fields
                    )
                    runs.append(record(spec, accuracy=mean + shift - 0.1 * (sparsity - 0.9)))
        return of_runs(runs)

    return make


def of_runs(runs: Sequence[RunRecord | RunSpec]) -> Evidence:
    specs = [run.spec if isinstance(run, RunRecord) else run for run in runs]
    names = {"base_method": [spec.method for spec in specs], "method": [spec.variant for spec in specs]}
    return Evidence(frame(runs).assign(**names), {spec.run_id: spec for spec in specs})


def claim(*tests: dict[str, Any], name: str = "claim") -> Claim:
    questions = [one for test in tests for one in msgspec.convert(test, ClaimTest).questions("test")]
    return Claim(name=name, statement="", source="", scale="", studies=(), mini=(), note="", questions=tuple(questions))


def verdict(test: dict[str, Any], runs: Evidence) -> Finding:
    (found,) = judge([claim(test)], [runs])
    return found


@pytest.mark.parametrize(
    ("expect", "margin", "difference", "expected"),
    [
        ("greater", 0.0, 0.01, "supported"),
        ("greater", 0.0, -0.01, "contradicted"),
        ("greater", 0.0, 0.0005, "undecided"),
        ("greater", 0.02, 0.01, "contradicted"),  # a difference, but less than the claim says
        ("greater", -0.01, -0.001, "supported"),  # not worse by a point
        ("less", 0.0, -0.01, "supported"),
        ("less", 0.0, 0.01, "contradicted"),
        ("less", 0.02, -0.01, "contradicted"),
        ("equal", 0.01, 0.001, "supported"),
        ("equal", 0.01, 0.02, "contradicted"),
        ("equal", 0.01, -0.02, "contradicted"),
        ("equal", 0.01, 0.0098, "undecided"),
        ("equal", 0.01, 0.0102, "undecided"),
    ],
)
def test_two_methods(evidence: Records, expect: str, margin: float, difference: float, expected: str) -> None:
    runs = evidence({"fts": 0.9 + difference, "snip": 0.9})
    test = {"compare": ["fts", "snip"], "expect": expect, "margin": margin}
    found = verdict(test, runs)
    assert found.verdict == expected
    (answer,) = found.answers
    assert answer.effect.mean == pytest.approx(difference)
    assert answer.seeds == 8
    assert (answer.seeds_to_decide > 8) == (expected == "undecided")
    swapped = {"greater": "less", "less": "greater", "equal": "equal"}[expect]
    assert verdict(test | {"compare": ["snip", "fts"], "expect": swapped}, runs).verdict == expected


def test_the_numbers_are_those_of_the_paired_and_the_two_one_sided_t_tests(evidence: Records) -> None:
    runs = evidence({"fts": 0.903, "snip": 0.9})
    table = runs.table.pivot_table(index="seed", columns="method", values="test_accuracy")
    gaps = (table["fts"] - table["snip"]).to_numpy()
    (greater,) = verdict({"compare": ["fts", "snip"], "expect": "greater"}, runs).answers
    expected = stats.ttest_rel(table["fts"], table["snip"])
    assert greater.p == pytest.approx(expected.pvalue)
    assert greater.effect.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    (equal,) = verdict({"compare": ["fts", "snip"], "expect": "equal", "margin": 0.005}, runs).answers
    sides = [
        stats.ttest_1samp(gaps, bound, alternative=side).pvalue
        for bound, side in ((-0.005, "greater"), (0.005, "less"))
    ]
    assert equal.p == pytest.approx(max(sides))
    (above,) = verdict({"method": "fts", "expect": "above", "value": 0.9}, runs).answers
    assert above.p == pytest.approx(stats.ttest_1samp(table["fts"], 0.9).pvalue)


def test_p_values_are_corrected_over_all_claims(evidence: Records) -> None:
    runs = evidence({"fts": 0.9035, "snip": 0.9, "grasp": 0.85})
    alone = claim({"compare": ["fts", "snip"], "expect": "greater"}, name="alone")
    other = claim({"compare": [["fts", "snip"], "grasp"], "expect": "greater"}, name="other")
    (first,) = judge([alone], [runs])
    both = judge([alone, other], [runs, runs])
    p = first.answers[0].p
    assert first.answers[0].p_holm == p
    assert 0.025 < p < 0.05
    assert both[0].answers[0].p_holm == p  # the largest of three p values
    assert [each.p_holm for each in both[1].answers] == pytest.approx(
        [3 * min(a.p for a in both[1].answers), 2 * max(a.p for a in both[1].answers)], rel=0.5
    )
    many = judge([alone] * 3, [runs] * 3)
    assert [each.verdict for each in many] == ["undecided"] * 3
    assert many[0].answers[0].p_holm == pytest.approx(3 * p)


def test_labels_of_two_methods_that_are_swapped_flip_the_verdict(evidence: Records) -> None:
    runs = evidence({"fts": 0.93, "snip": 0.9, "grasp": 0.8, "synflow": 0.85}, (0.9, 0.98))
    names = {"fts": "snip", "snip": "fts"}
    mutant = replace(runs, table=runs.table.assign(method=runs.table["method"].replace(names)))
    tests: list[dict[str, Any]] = [
        {"compare": ["fts", "snip"], "expect": "greater", "margin": 0.01},
        {"compare": ["snip", "fts"], "expect": "less"},
        {"compare": ["fts", {"best_of": ["snip", "grasp", "synflow"]}], "expect": "greater"},
        {"method": "fts", "expect": "above", "value": 0.91},
        {"method": "snip", "expect": "below", "value": 0.91},
    ]
    for test in tests:
        assert verdict(test, runs).verdict == "supported"
        assert verdict(test, mutant).verdict == "contradicted"


def test_a_claim_of_several_questions(evidence: Records) -> None:
    runs = evidence({"fts": 0.93, "snip": 0.9, "grasp": 0.8999})
    holds = {"compare": ["fts", "snip"], "expect": "greater"}
    fails = {"compare": ["snip", "fts"], "expect": "greater"}
    unclear = {"compare": ["snip", "grasp"], "expect": "greater"}
    absent = {"compare": ["fts", "hts"], "expect": "greater"}
    for tests, expected in {
        (0, 0): "supported",
        (0, 2): "undecided",
        (0, 2, 3): "missing",
        (0, 1, 2, 3): "contradicted",
    }.items():
        chosen = [(holds, fails, unclear, absent)[number] for number in tests]
        (found,) = judge([claim(*chosen)], [runs])
        assert found.verdict == expected
    (found,) = judge([claim(holds, fails, unclear)], [runs])
    text = "Contradicted with 8 seeds (tests: 1 supported, 1 contradicted, 1 undecided)."
    assert verdict_text(found).startswith(text)
    assert isnan(judge([claim(holds)], [runs])[0].seeds_to_decide)


def test_sparsities_are_averaged_within_seeds_and_networks_are_strata(
    evidence: Records, record: Callable[..., RunRecord]
) -> None:
    runs = evidence({"fts": 0.91, "snip": 0.9}, (0.9, 0.98))
    (answer,) = verdict({"compare": ["fts", "snip"], "expect": "greater"}, runs).answers
    assert (answer.effect.replicates, answer.effect.networks, answer.effect.freedom) == (8, 1, pytest.approx(7))
    other = [
        record(
            RunSpec(dataset="digits", model="resnet8", method=m, sparsity=0.9, seed=s),
            accuracy=0.8 + 0.02 * (m == "fts")
        )
        for m in ("fts", "snip") for s in range(3)
    ]  # fmt: skip
    both = replace(runs, table=pd.concat([runs.table, of_runs(other).table], ignore_index=True))
    (answer,) = verdict({"compare": ["fts", "snip"], "expect": "greater"}, both).answers
    assert (answer.effect.replicates, answer.effect.networks, answer.effect.freedom) == (11, 2, pytest.approx(7))
    entry = ClaimEntry(verdict({"compare": ["fts", "snip"], "expect": "greater"}, both), [])
    rows = [(row["test"], row["effect"], row["seeds"]) for row in entry.rows[1:]]
    assert rows[0] == ("on digits / resnet8", "+2.00 points on every seed", "3")
    assert rows[1][::2] == ("on digits / vgg8", "8")
    by_network = plain_data(entry.finding)["tests"][0]["by_network"]
    alone = {"estimate": pytest.approx(0.02), "interval": [None, None], "n": 3, "verdict": "undecided"}
    assert by_network["digits / resnet8"] == alone
    assert answer.effect.mean == pytest.approx(0.015)
    only = {"compare": ["fts", "snip"], "expect": "greater", "where": {"model": "resnet8"}}
    (answer,) = verdict(only, both).answers
    assert answer.effect.constant
    assert answer.p == 2 / 2**3  # the sign test: equal differences have no spread
    assert answer.seeds_to_decide == 6


@pytest.mark.parametrize(
    ("expect", "margin", "differences", "expected", "alone"),
    [
        ("greater", 0.0, (0.05, 0.01), "supported", ("for", "for")),
        ("greater", 0.0, (0.05, -0.01), "undecided", ("for", "against")),
        ("greater", 0.0, (0.05, 0.0005), "supported", ("for", "")),
        ("greater", 0.0, (-0.05, 0.01), "undecided", ("against", "for")),
        ("greater", 0.0, (-0.05, -0.01), "contradicted", ("against", "against")),
        ("less", 0.0, (-0.05, 0.01), "undecided", ("for", "against")),
        ("equal", 0.02, (0.001, 0.03), "undecided", ("for", "against")),
        ("equal", 0.02, (0.001, -0.002), "supported", ("for", "for")),
        ("greater", -0.01, (0.05, -0.02), "undecided", ("for", "against")),
        ("greater", -0.01, (0.05, -0.005), "supported", ("for", "for")),
        ("greater", 0.0, (0.0035, -0.003), "undecided by few seeds", ("for", "")),
    ],
)
def test_networks_that_disagree_leave_a_test_undecided(
    evidence: Records, expect: str, margin: float, differences: tuple[float, float], expected: str, alone: Sequence[str]
) -> None:
    one, other = (evidence({"fts": 0.8 + difference, "snip": 0.8}).table for difference in differences)
    both = Evidence(pd.concat([one, other.assign(model="resnet8")], ignore_index=True))
    found = verdict({"compare": ["fts", "snip"], "expect": expect, "margin": margin}, both)
    assert found.verdict == expected.partition(" ")[0]
    rows = ClaimEntry(found, []).rows
    assert {row["test"]: row["verdict"] for row in rows[1:]} == {
        "on digits / vgg8": alone[0],
        "on digits / resnet8": alone[1],
    }
    (data,) = plain_data(found)["tests"]
    assert data["networks_disagree"] == (expected == "undecided")
    if expected == "undecided":
        assert rows[0]["more"] == "networks disagree"
        assert verdict_text(found).startswith("Undecided with 8 seeds; the networks disagree.")
        assert data["seeds_to_decide"] is None


def test_the_best_of_several_is_chosen_without_the_seed_that_it_is_compared_on() -> None:
    draws = np.random.default_rng(0)
    keys = [("digits", "vgg8", str(cell), 0.9, seed) for cell in range(300) for seed in range(6)]
    index = pd.MultiIndex.from_tuples(keys, names=["dataset", "model", "cell", "sparsity", "seed"])
    three = [pd.Series(draws.standard_normal(len(index)), index) for _ in range(3)]  # of equal expected value
    best = _best([_Part(each, []) for each in three])
    assert len(best) == len(index)
    cells = best.groupby(level="cell").mean()
    assert abs(cells.mean()) < 3 * cells.std() / 300**0.5
    assert pd.concat(three, axis=1).groupby(level="cell").mean().max(axis=1).mean() > 0.3  # of the highest mean
    better = _best([_Part(three[0] + 10, []), _Part(three[1], [])])
    pd.testing.assert_series_equal(better.sort_index(), (three[0] + 10).sort_index(), check_names=False)


def test_settings_are_compared_within_each_method(evidence: Records) -> None:
    plain = evidence({"snip": 0.9, "fts": 0.92})
    shuffled = evidence({"snip": 0.89, "fts": 0.91}, sanity="shuffle")
    both = replace(plain, table=pd.concat([plain.table, shuffled.table], ignore_index=True))
    sides = [{"sanity": "shuffle"}, {"sanity": "none"}]
    (answer,) = verdict({"compare": sides, "expect": "less"}, both).answers
    assert answer.effect.mean == pytest.approx(-0.01)
    assert answer.verdict == "supported"
    one = {"compare": sides, "expect": "less", "where": {"method": ["snip", "fts"]}, "for_each": "method"}
    assert [each.question.range for each in verdict(one, both).answers] == ["method snip", "method fts"]
    (alone,) = verdict({"method": "snip", "expect": "above", "value": 0.89}, both).answers
    assert alone.effect.mean == pytest.approx(0.9)  # an axis that is not named has its default


def test_fields_of_recipe_scoring_and_options_select_runs(record: Callable[..., RunRecord]) -> None:
    runs = [
        record(
            msgspec.convert(
                {"dataset": "digits", "model": "vgg8", "method": "fts", "sparsity": 0.9, "seed": seed,
                 "scoring": {"rounds": rounds}, "options": options}, RunSpec),
            accuracy=0.9 + rounds / 1000 - 0.1 * bool(options) + SHIFTS[seed],
        )
        for seed in SEEDS for rounds in (1, 10) for options in ({}, {"alpha": 0.5})
    ]  # fmt: skip
    compare = [{"method": "fts", "scoring.rounds": 10}, {"method": "fts", "scoring.rounds": 1, "options.alpha": 0.5}]
    (answer,) = verdict({"compare": compare, "expect": "greater"}, of_runs(runs)).answers
    assert answer.effect.mean == pytest.approx(0.109)


def test_the_figure_of_a_claim_has_axes_for_each_recipe_that_it_tests(record: Callable[..., RunRecord]) -> None:
    runs = [
        record(
            msgspec.convert(
                {"dataset": "digits", "model": "vgg8", "method": method, "sparsity": 0.9, "seed": seed,
                 "recipe": {"epochs": epochs}}, RunSpec),
            accuracy=0.8 + 0.01 * epochs + 0.02 * (method == "fts") + SHIFTS[seed],
        )
        for seed in SEEDS for method in ("snip", "fts") for epochs in (3, 12)
    ]  # fmt: skip
    tests = [
        {"compare": ["fts", "snip"], "expect": "greater", "where": {"recipe.epochs": {end: 11}}}
        for end in ("maximum", "minimum")
    ]
    (found,) = judge([claim(*tests)], [of_runs(runs)])
    drawn = draw_claim(found)
    assert drawn is not None
    short, long = [axes for axes in drawn.axes if axes.get_title()]
    assert [" ".join(axes.get_title().split()) for axes in (short, long)] == [
        "digits / vgg8, recipe.epochs up to 11",
        "digits / vgg8, recipe.epochs 11 and more",
    ]
    for axes, low in ((short, 83), (long, 92)):
        lines = [np.asarray(line.get_ydata(), float) for line in axes.lines]
        assert sorted(y[0] for y in lines if len(y) == 1) == pytest.approx([low, low + 2])
    (found,) = judge([claim(tests[0])], [of_runs(runs)])
    drawn = draw_claim(found)
    assert drawn is not None
    assert [axes.get_title() for axes in drawn.axes if axes.get_title()] == ["digits / vgg8"]


def test_a_name_without_options_is_the_one_variant_of_a_network(evidence: Records) -> None:
    runs = evidence({"imp": 0.95}, options={"levels": 31})
    other = evidence({"snip": 0.9})
    both = replace(runs, table=pd.concat([runs.table, other.table], ignore_index=True))
    test = {"compare": ["imp", "snip"], "expect": "greater"}
    assert verdict(test, both).verdict == "supported"
    more = evidence({"imp": 0.8}, options={"levels": 5})
    several = replace(both, table=pd.concat([both.table, more.table], ignore_index=True))
    assert verdict(test, several).verdict == "missing"
    assert verdict(test | {"compare": ["imp (levels 31)", "snip"]}, several).verdict == "supported"
    longer = more.table.assign(recipe=[msgspec.structs.replace(recipe, epochs=99) for recipe in more.table["recipe"]])
    recipes = replace(both, table=pd.concat([both.table, longer], ignore_index=True))
    assert verdict(test | {"where": {"recipe.epochs": {"maximum": 98}}}, recipes).verdict == "supported"


def test_rank_correlations_of_two_metrics_with_accuracy(record: Callable[..., RunRecord]) -> None:
    draws, runs = np.random.default_rng(0), []
    for seed in SEEDS:
        for number, method in enumerate(("snip", "grasp", "fts", "random", "magnitude", "synflow")):
            spec = RunSpec(dataset="digits", model="vgg8", method=method, sparsity=0.9, seed=seed)
            made = record(spec, accuracy=0.5 + 0.05 * number + 0.001 * draws.random())
            assert made.pruning is not None
            assert made.pruning.mask_metrics is not None
            metrics = msgspec.structs.replace(
                made.pruning.mask_metrics, log10_paths=None if number == 0 else 3.0 * number, ntk_trace=draws.random()
            )
            pruning = msgspec.structs.replace(made.pruning, mask_metrics=metrics)
            runs.append(msgspec.structs.replace(made, pruning=pruning, status="collapsed" if number == 0 else "done"))
    found = verdict({"correlation": ["log10_paths", "ntk_trace"], "expect": "greater"}, of_runs(runs))
    assert found.verdict == "supported"
    (answer,) = found.answers
    assert list(answer.samples.sides) == ["log10_paths", "ntk_trace"]
    assert answer.samples.sides["log10_paths"].to_list() == pytest.approx([1.0] * 8)
    turned = verdict({"correlation": ["-log10_paths"], "expect": "above", "value": 0.5}, of_runs(runs))
    assert turned.verdict == "contradicted"


def test_overlaps_of_masks(evidence: Records) -> None:
    runs = evidence({"fts": 0.9, "snip": 0.9})
    ids = runs.table.set_index(["method", "seed"])["run_id"]
    masks = {ids["fts", seed]: {"w": np.arange(8) < 4} for seed in SEEDS}
    masks |= {ids["snip", seed]: {"w": (np.arange(8) >= 2) & (np.arange(8) < 6 + seed % 2)} for seed in SEEDS}
    (question,) = claim(
        {"metric": "mask_overlap", "compare": ["fts", "snip"], "expect": "below", "value": 0.5}
    ).questions
    values = values_of(question, replace(runs, read=masks.get))
    assert values.tested.to_list() == pytest.approx([2 / 6, 2 / 7] * 4)
    assert not values_of(question, runs).networks()  # no masks, no overlap


def test_runs_that_lack_and_the_time_they_take(
    tmp_path: Path, grid: Callable[..., Grid], record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> None:  # fmt: skip
    axes = (
        '[grid]\ndataset = ["digits"]\nmodel = ["vgg8"]\nmethod = ["snip", "fts"]\nsparsity = [0.9]\nseed = [0, 1, 2]\n'
    )
    (tmp_path / "demo.toml").write_text(f'name = "demo"\n{axes}', encoding="utf-8")
    study = grid(model=("vgg8",), method=("snip", "fts"), sparsity=(0.9,), seed=(0, 1, 2))
    runs = [run for run in study.runs() if run.method != "dense"]
    stored(tmp_path / "demo", [record(run, environment={"seconds": 1800.0}) for run in runs[:2]])
    found = load_evidence(["demo", "unwritten"], tmp_path, tmp_path)
    assert found.unknown == ["unwritten"]
    (finding,) = judge([claim({"compare": ["snip", "fts"], "expect": "less"})], [found])
    assert finding.verdict == "missing"
    lacking = finding.lacking
    assert (lacking.runs, lacking.needed, lacking.seconds, lacking.measured) == (4, 6, 4 * 1800, 2)
    stored(tmp_path / "reference/demo", [record(run) for run in runs])
    both = load_evidence(["demo"], tmp_path, tmp_path)
    assert judge([claim({"compare": ["snip", "fts"], "expect": "less"})], [both])[0].lacking.runs == 0
    seconds = [environment.get("seconds") for environment in both.table["environment"]]
    assert seconds.count(1800.0) == 2, "the records of the user's own folder come first"
    nothing = load_evidence(["unwritten"], tmp_path, tmp_path)
    assert judge([claim({"compare": ["snip", "fts"], "expect": "less"})], [nothing])[0].verdict == "missing"


def test_seeds_to_decide_find_the_difference_four_times_out_of_five() -> None:
    draws = np.random.default_rng(1)
    found = effect([np.array([0.5, 1.5, -0.5, 0.5])])  # mean 0.5, standard deviation 0.816
    n = found.seeds_to_find(0, 0.025)
    assert 20 < n < 26
    samples = draws.normal(found.mean, found.spread, (4000, int(n)))
    p = stats.ttest_1samp(samples, 0, axis=1).pvalue
    assert float((p < 0.05).mean()) == pytest.approx(0.8, abs=0.03)
    assert effect([np.array([1.0, -1.0, 1.0, -1.0])]).seeds_to_find(0, 0.025) == inf


@pytest.mark.parametrize(
    ("expect", "bound", "mean", "wrong"),
    [("greater", 0.5, 0.5, "either"), ("equal", 1.0, 1.0, "supported"), ("equal", 1.0, -1.0, "contradicted")],
)
def test_a_wrong_verdict_has_a_probability_of_five_percent_at_most(
    expect: str, bound: float, mean: float, wrong: str
) -> None:
    """Draw at the bound, where an error is most probable; two networks of 5 and 4 seeds."""
    draws = np.random.default_rng(2)
    errors = 0
    for _ in range(3000):
        found = effect([draws.normal(mean, 1, 5), draws.normal(mean, 1, 4)])
        leaning, p, _, _ = decide(found, expect, bound)
        errors += p < 0.05 and wrong in ("either", leaning)
    assert errors / 3000 < 0.065
