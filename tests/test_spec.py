"""Tests of the specification of a run: one-line errors, run ids, the product of axes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt_bench.errors import RequestError
from pbt_bench.grid_file import load_grid
from pbt_bench.seeds import derive
from pbt_bench.spec import Axes, Grid, Recipe, RunSpec, Scoring

GRID = """
name = "small"
[grid]
dataset = ["digits"]
model = ["resnet8", "vgg8"]
method = ["snip", "fts"]
sparsity = [0.5, 0.9]
seed = [0, 1]
[recipe]
epochs = 2
[scoring]
batchnorm = "calibrated"
"""


def grid(tmp_path: Path, text: str, *overrides: str) -> Grid:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return load_grid(path, overrides)


def test_the_study_is_the_product_of_its_axes_plus_one_dense_baseline_each(tmp_path: Path) -> None:
    runs = grid(tmp_path, GRID).runs()
    assert len(runs) == 2 * 2 * 2 * 2 + 2 * 2
    assert len({run.run_id for run in runs}) == len(runs)
    dense = [run for run in runs if run.method == "dense"]
    assert {(run.model, run.seed, run.sparsity) for run in dense} == {
        (m, s, 0.0) for m in ("resnet8", "vgg8") for s in (0, 1)
    }
    assert len(grid(tmp_path, "dense = false\n" + GRID).runs()) == 16
    assert len(grid(tmp_path, GRID.replace("[recipe]", "dense = false\n[recipe]")).runs()) == 16


def test_other_axes_multiply_the_pruned_runs_only(tmp_path: Path) -> None:
    runs = grid(
        tmp_path, GRID.replace("[recipe]", 'scope = ["global", "erk"]\nsanity = ["none", "shuffle"]\n[recipe]')
    ).runs()
    assert len(runs) == 4 * 16 + 4


def test_a_scalar_is_an_axis_of_one(tmp_path: Path) -> None:
    assert len(grid(tmp_path, GRID.replace("[0, 1]", "7").replace('["snip", "fts"]', '"snip"')).runs()) == 4 + 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs", "epoch", "unknown key 'recipe.epoch'; did you mean 'recipe.epochs'? (valid: recipe.augment"),
        (
            "[scoring]",
            "[scorin]",
            "unknown key 'scorin'; did you mean 'scoring'? (valid: contributed, dense, grid, name, options",
        ),
        ("0.9]", '"0.9"]', "grid.sparsity[1] = '0.9' must be a number, not a text"),
        ("seed = [0, 1]", "seed = { a = 1 }", "grid.seed = {'a': 1} must be a list"),
        ("0.9]", "1.2]", "grid: sparsity = 1.2 must be at least 0 and below 1"),
        ("0.9]", "-0.1]", "grid: sparsity = -0.1 must be at least 0 and below 1"),
        ("0.9]", "nan]", "grid: sparsity = nan must be at least 0 and below 1"),
        ("[0, 1]", "[]", "seed is empty: every axis needs at least one value"),
        ("[0, 1]", "[-1]", "grid: seed = -1 must be at least 0"),
        ("[0, 1]", '["a"]', "grid.seed[0] = 'a' must be a whole number, not a text"),
        ("[0, 1]", "[true]", "grid.seed[0] = true must be a whole number"),
        ("epochs = 2", "epochs = -2", "recipe: epochs = -2 must be at least 0"),
        ("epochs = 2", "learning_rate = inf", "recipe: learning_rate = inf must be finite"),
        ("epochs = 2", "momentum = 2", "recipe: momentum = 2.0 must be between 0 and 1"),
        ("[scoring]", "[scoring]\nchunk = 0", "scoring: chunk = 0 must be at least 1"),
        ("[scoring]", '[scoring]\nsamples_per_class = "ALL"', "= 'ALL' must be a whole number or 'all'"),
        ("[scoring]", "[scoring]\nsamples_per_class = 0", "scoring: samples_per_class = 0 must be at least 1"),
        ("[0, 1]", "[9223372036854775808]", "grid: seed = 9223372036854775808 must be at least 0 and below 2^63"),
        ("epochs = 2", "epochs = 2.5", "recipe.epochs = 2.5 must be a whole number"),
        ("epochs = 2", 'optimizer = "sdg"', "unknown optimizer value 'sdg'; did you mean 'sgd'? (valid: adamw, sgd)"),
        ("epochs = 2", 'schedule = "multistep"', "schedule = 'multistep' needs milestones"),
        ('"calibrated"', '"calibrate"', "did you mean 'calibrated'? (valid: batch, calibrated, running)"),
        ('name = "small"', 'name = "../up"', "name = '../up' must be letters, digits"),
        ('name = "small"', "", "missing name"),
        ("seed = [0, 1]", "", "missing grid.seed"),
        (
            "[recipe]",
            'warmup = "2 weeks"\n[recipe]',
            "grid: warmup = '2 weeks' must be 'none', 'N epochs', 'N steps', ",
        ),
        ("[recipe]", 'sanity = ["nonne"]\n[recipe]', "grid: unknown sanity value 'nonne'; did you mean 'none'"),
        ("[recipe]", "[options.snip]\na = []\n[recipe]", "options.snip.a is empty: an axis needs at least one value"),
        ("[recipe]", "[options]\na = 3\n[recipe]", "options: write one table per method, for example [options.grasp]"),
        ("[recipe]", "[recipe]\ngamma = []", "recipe.gamma is empty: a list is an axis and needs at least one value"),
        ("[recipe]", "[recipe]\ngamma = [0.1, 2]", "gamma = 2.0 must be between 0 and 1"),
        (
            "[scoring]",
            "[scoring]\nprobes = 3",
            "scoring.probes is an option of methods: write it in [options.hts]",
        ),
        ("[grid]", "[grid", "not a TOML file"),
        ("seed = [0, 1]", f"seed = {'[' * 100_000}", "not a TOML file"),
        ("[0, 1]", "1" * 5000, "not a TOML file"),
    ],
)
def test_bad_input_is_one_line_with_place_and_valid_values(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GRID
    with pytest.raises(RequestError) as error:
        grid(tmp_path, GRID.replace(old, new))
    text = str(error.value)
    assert message in text
    assert text.startswith(str(tmp_path / "grid.toml"))
    assert "\n" not in text


def test_a_missing_or_binary_grid_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nothing.toml: No such file"):
        load_grid(tmp_path / "nothing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="binary.toml: not a TOML file"):
        load_grid(tmp_path / "binary.toml")


def test_overrides(tmp_path: Path) -> None:
    changed = grid(tmp_path, GRID, "recipe.epochs=7", "grid.seed=[3]", "scoring.batchnorm=running", "name=other")
    assert (changed.recipe.epochs, changed.grid.seed, changed.scoring.batchnorm, changed.name) == (
        7,
        (3,),
        "running",
        "other",
    )
    with pytest.raises(RequestError, match="--set 'recipe': expected key=value"):
        grid(tmp_path, GRID, "recipe")
    with pytest.raises(RequestError, match="--set 'name.x=1': 'name' is not a table"):
        grid(tmp_path, GRID, "name.x=1")


def test_methods_that_are_left_out_take_their_options_along(tmp_path: Path) -> None:
    with_options = (
        GRID.replace('method = ["', 'method = ["rigl", "imp", "')
        + "\n[options.rigl]\ninterval = 50\n[options.imp]\nlevels = 5\n"
    )
    assert set(grid(tmp_path, with_options).options) == {"rigl", "imp"}
    assert set(grid(tmp_path, with_options, "grid.method=imp").options) == {"imp"}
    assert set(grid(tmp_path, with_options, "grid.method=snip", "grid.mask_updates=rigl").options) == {"rigl"}
    assert grid(tmp_path, with_options, "grid.method=snip", "options.imp.levels=4").options["imp"] == ({"levels": 4},)


def test_the_run_id_covers_every_field() -> None:
    base = RunSpec(dataset="digits", model="vgg8", method="snip", sparsity=0.9, seed=0)
    others = {
        "dataset": "mnist", "model": "resnet8", "method": "fts", "sparsity": 0.91, "seed": 1, "scope": "erk",
        "sanity": "shuffle", "warmup": "1 epochs", "rewind": True, "init": "kaiming", "protocol": "original",
        "recipe": Recipe(epochs=16), "scoring": Scoring(samples_per_class=11), "options": {"alpha": 0.1},
        "revisions": {"training": 2}, "pattern": "2:4", "mask_updates": "set", "update_options": {"interval": 1},
    }  # fmt: skip
    assert set(others) == set(RunSpec.__struct_fields__)
    changed = [msgspec.structs.replace(base, **{name: value}) for name, value in others.items()]
    assert len({base.run_id, *(spec.run_id for spec in changed)}) == len(others) + 1
    assert len(base.run_id) == 16
    assert set(json.loads(base.to_json())) == set(RunSpec.__struct_fields__) - {
        *("options", "revisions", "pattern", "mask_updates", "update_options")
    }


FORMAT_1: dict[type[Recipe | Scoring | RunSpec], str] = {
    Recipe: "epochs optimizer learning_rate momentum nesterov weight_decay schedule milestones gamma warmup_epochs "
    "batch_size augment crop_padding label_smoothing precision validation_fraction split_seed threads "
    "test_every_epoch execution",
    Scoring: "samples_per_class most_samples batch_size chunk fisher_batch_size augment prune_classifier batchnorm "
    "temperature curvature probes probe_tolerance perturbations perturbation_scale inner_steps inner_learning_rate "
    "inner_momentum rounds",
    RunSpec: "dataset model method sparsity seed scope sanity warmup rewind init protocol recipe scoring",
}
OPTIONS_OF_VERSION_0_1: list[tuple[str, dict[str, Any], str]] = [  # they were fields of Scoring
    ("grasp", {"temperature": 100.0}, "d24cc41d08cc7b13"),
    ("hts", {"curvature": "ggn"}, "72412221b43a1ae7"),
    ("hutchinson_pruning", {"probes": 10, "probe_tolerance": 0.1}, "9a277374c7536525"),
    ("ntk_sap", {"perturbations": 1, "perturbation_scale": 0.1}, "12b8a3173ba4d85f"),
    ("prospr", {"inner_steps": 2, "inner_learning_rate": 0.5, "inner_momentum": 0.9}, "3aab7fa782b40745"),
    ("fts", {}, "14cf8f658f0110d3"),
]
OTHER_VALUES = {
    "label_noise": 0.5,
    "order": "class",
}  # of later fields whose other values cannot be guessed from their type


def other(default: bool | float | None) -> bool | float:
    return not default if isinstance(default, bool) else (default or 1) + 1


def written(spec: RunSpec) -> dict[type[Recipe | Scoring | RunSpec], set[str]]:
    table = json.loads(spec.to_json())
    return {Recipe: set(table["recipe"]), Scoring: set(table["scoring"]), RunSpec: set(table)}


def test_run_ids_are_those_of_version_0_1() -> None:
    assert RunSpec(dataset="digits", model="resnet8", method="snip", sparsity=0.9, seed=0).run_id == "36c84930f6b9b62a"
    dense = RunSpec(dataset="digits", model="resnet8", method="dense", sparsity=0, seed=0, recipe=Recipe(epochs=2))
    assert dense.run_id == "31a39f75a2545398"
    every_axis = RunSpec(
        dataset="cifar100", model="vgg16", method="fts", sparsity=0.98, seed=3, scope="erk", sanity="shuffle",
        warmup="1 epochs", rewind=True, init="kaiming", protocol="original",
        recipe=Recipe(
            epochs=160, schedule="multistep", milestones=(80, 120), augment="crop-flip", nesterov=True
        ),
        scoring=Scoring(
            samples_per_class="all", most_samples=128, batch_size=64, chunk=8, fisher_batch_size=8, augment=True,
            prune_classifier=False, batchnorm="batch", rounds=7,
        ),
    )  # fmt: skip
    assert every_axis.run_id == "cb76c9eaa10a8a21"
    for method, options, run_id in OPTIONS_OF_VERSION_0_1:
        spec = RunSpec(dataset="digits", model="vgg8", method=method, sparsity=0.9, seed=0, options=options)
        assert spec.run_id == run_id
        assert RunSpec.from_json(spec.to_json()) == spec


def test_fields_later_than_format_1_are_part_of_the_identity_where_they_differ_from_their_default() -> None:
    base = RunSpec(dataset="digits", model="vgg8", method="snip", sparsity=0.9, seed=0)
    assert written(base) == {kind: set(names.split()) for kind, names in FORMAT_1.items()}
    ids = {base.run_id}
    for part, kind in (("recipe", Recipe), ("scoring", Scoring)):
        for field in msgspec.structs.fields(kind):
            if field.name in FORMAT_1[kind].split():
                continue
            value: Any = OTHER_VALUES.get(field.name) or other(field.default)
            spec = msgspec.structs.replace(base, **{part: kind(**{field.name: value})})
            assert written(spec)[kind] == {*FORMAT_1[kind].split(), field.name}
            assert RunSpec.from_json(spec.to_json()) == spec
            ids.add(spec.run_id)
    later = len(Recipe.__struct_fields__) + len(Scoring.__struct_fields__) - 20 - 9
    assert later >= 4
    assert len(ids) == 1 + later


def test_adding_a_field_with_a_default_changes_no_id() -> None:
    base = RunSpec(
        dataset="digits", model="vgg8", method="grasp", sparsity=0.9, seed=0, options={"temperature": 1.0},
        recipe=Recipe(epochs=3), scoring=Scoring(order="class"), revisions={"training": 2},
    )  # fmt: skip
    parts: dict[str, Any] = {}
    for name, kind in (("recipe", Recipe), ("scoring", Scoring)):
        more = msgspec.defstruct(kind.__name__, [("added", int, 7)], bases=(kind,), frozen=True, kw_only=True)
        parts[name] = more(**msgspec.structs.asdict(getattr(base, name)))
    more = msgspec.defstruct("RunSpec", [("added", dict, {})], bases=(RunSpec,), frozen=True, kw_only=True)
    spec: Any = more(**msgspec.structs.asdict(base) | parts)
    assert spec.to_json() == base.to_json()
    assert spec.run_id == base.run_id
    assert RunSpec.from_json(spec.to_json()) == base
    other: Any = msgspec.structs.replace(spec, added={"a": 1})
    assert other.run_id != base.run_id


def test_equal_values_have_one_identity() -> None:
    a = RunSpec(dataset="d", model="m", method="x", sparsity=0, seed=0, recipe=Recipe(learning_rate=1))
    b = RunSpec(dataset="d", model="m", method="x", sparsity=0.0, seed=0, recipe=Recipe(learning_rate=1.0))
    assert a.run_id == b.run_id
    assert RunSpec.from_json(a.to_json()) == a
    assert Scoring(loss_temperature=1) == Scoring(loss_temperature=1.0)
    assert isinstance(Scoring(loss_temperature=1).loss_temperature, float)


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: Recipe(epochs=-1), "epochs = -1 must be at least 0"),
        (lambda: Recipe(validation_fraction=1), "validation_fraction = 1.0 must be between 0 and 0.9"),
        (lambda: Recipe(precision="float16"), "unknown precision value 'float16'; did you mean 'bfloat16'?"),
        (lambda: Recipe(milestones=(3,)), "milestones is for schedule = 'multistep', not 'cosine'"),
        (lambda: Scoring(loss_temperature=0.0), "loss_temperature = 0.0 must be at least 1e-06"),
        (lambda: Scoring(rounds=0), "rounds = 0 must be at least 1"),
    ],
)
def test_instances_that_are_created_in_python_are_checked(create: Callable[[], object], message: str) -> None:
    with pytest.raises(RequestError) as error:
        create()
    assert str(error.value).startswith(message)


@given(st.text(max_size=300))
def test_a_spec_from_arbitrary_text_is_a_spec_or_a_request_error(text: str) -> None:
    with pytest.raises(RequestError):
        RunSpec.from_json(text)


def test_streams_do_not_collide() -> None:
    seeds = {derive(seed, purpose, n) for seed in range(30) for purpose in ("init", "order") for n in range(30)}
    assert len(seeds) == 30 * 2 * 30
    assert all(0 <= s < 2**63 for s in seeds)


def test_rewinding_without_a_warm_up_is_not_another_run() -> None:
    axes: dict[str, Any] = {"dataset": ("d",), "model": ("m",), "method": ("snip",), "sparsity": (0.9,), "seed": (0,)}
    runs = Grid(name="x", grid=Axes(**axes, warmup=("none", "2 steps"), rewind=(False, True)), dense=False).runs()
    assert [(run.warmup, run.rewind) for run in runs] == [("none", False), ("2 steps", False), ("2 steps", True)]


@pytest.mark.parametrize("part", ["scoring", "options", "recipe", "revisions"])
@pytest.mark.parametrize("value", [None, 3, [], "x"])
def test_a_part_of_a_spec_that_is_no_table_is_a_request_error(part: str, value: object) -> None:
    table = json.loads(RunSpec(dataset="digits", model="vgg8", method="grasp", sparsity=0.9, seed=0).to_json())
    with pytest.raises(RequestError, match="run: "):
        RunSpec.from_json(json.dumps(table | {part: value}))
