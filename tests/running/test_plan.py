"""Tests that unknown names and values of a grid are one-line errors before any run starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pbt_bench.errors import RequestError
from pbt_bench.grid_file import check_grid
from pbt_bench.pruning.plugins import pruners
from pbt_bench.running.plan import check_names

OWN = """
from pbt_bench.pruning import pruner


@pruner(cite="none")
def misspelt(weigth):
    return weigth


@pruner(cite="none", scope="unifrom")
def lost_scope(weight):
    return weight


@pruner(cite="none", scope="erk")
def mixed(weight, *, alpha=0.5):
    return weight
"""


@pytest.fixture(autouse=True)
def own_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.setenv("PBT_BENCH_METHODS", str(tmp_path))
    pruners.cache_clear()
    yield
    pruners.cache_clear()


def runs(axes: dict[str, Any], **tables: Any) -> int:
    grid = {"dataset": ["digits"], "model": ["vgg8"], "method": ["mixed"], "sparsity": [0.5], "seed": [0]} | axes
    return len(check_names(check_grid({"name": "x", "dense": False, "grid": grid} | tables, "x.toml"), "x.toml").runs())


@pytest.mark.parametrize(
    ("axes", "tables", "says"),
    [
        ({"method": ["misspelt"]}, {}, "unknown statistic 'weigth'; did you mean 'weight'?"),
        ({"method": ["mixt"]}, {}, "unknown method 'mixt'; did you mean 'mixed'?"),
        ({"method": ["lost_scope"]}, {}, "unknown scope 'unifrom'; did you mean 'uniform'?"),
        ({"method": ["snip"], "scope": ["unifrom"]}, {}, "unknown scope 'unifrom'; did you mean 'uniform'?"),
        ({"pattern": ["chanel"]}, {}, "grid: unknown pattern 'chanel'; did you mean 'channel'?"),
        ({"pattern": ["4:2"]}, {}, "grid: pattern = '4:2' must be 'none', 'channel', or 'N:M'"),
        ({"pattern": ["2:4"]}, {}, "method 'mixed' has the scope 'erk', which cannot be combined with pattern = '2:4'"),
        (
            {"method": ["snip"], "pattern": ["1:4"]},
            {},
            "sparsity = 0.5 with pattern = '1:4': the sparsity must be 1 - 1/4 = 0.75",
        ),
        ({"mask_updates": ["rigel"]}, {}, "grid: unknown mask_updates value 'rigel'; did you mean 'rigl'?"),
        ({"mask_updates": ["none", "gmp"]}, {}, "mask_updates = 'gmp' cannot be combined with method 'mixed'"),
        (
            {"method": ["set"], "mask_updates": ["rigl"]},
            {},
            "mask_updates = 'rigl' cannot be combined with method 'set', which has its own: 'set'",
        ),
        (
            {"method": ["gmp"]},
            {"recipe": {"epochs": 0}},
            "mask updates 'gmp' prune during training, which recipe.epochs",
        ),
        ({"method": ["gmp"], "sanity": ["shuffle"]}, {}, "sanity = 'shuffle' changes nothing for mask updates 'gmp'"),
        (
            {"method": ["snip"], "mask_updates": ["set"], "pattern": ["1:2"]},
            {},
            "mask updates 'set' cannot be combined with pattern = '1:2'",
        ),
        (
            {"method": ["gmp"]},
            {"options": {"gmp": {"begin": 0.9}}},
            "options.gmp: begin = 0.9 must be at most end = 0.75",
        ),
        (
            {"mask_updates": ["set"]},
            {"options": {"set": {"intervall": 5}}},
            "options.set: mask updates 'set': unknown option 'intervall'; did you mean 'interval'?",
        ),
        ({"method": ["rigl"]}, {"options": {"rigl": {"interval": 0}}}, "options.rigl: interval = 0 must be at least 1"),
        ({}, {"options": {"mixd": {"alpha": 1}}}, "unknown method 'mixd'; did you mean 'mixed'?"),
        ({}, {"options": {"grasp": {"temperature": 1}}}, "options.grasp: 'grasp' is not a method of this grid"),
        ({}, {"options": {"mixed": {"alpa": 1}}}, "options.mixed: method 'mixed': unknown option 'alpa'; did you mean"),
        (
            {},
            {"options": {"mixed": {"alpha": [0.5, "half"]}}},
            "options.mixed: option 'alpha' of method 'mixed' = 'half' must be a number, not a text",
        ),
        ({}, {"options": {"mixed": {"alpha": []}}}, "options.mixed.alpha is empty: an axis needs at least one value"),
        ({}, {"options": {"mixed": 0.5}}, "options: write one table per method"),
        (
            {"method": ["hts"]},
            {"options": {"hts": {"curvature": "hutchinsn"}}},
            "options.hts: unknown curvature value 'hutchinsn'; did you mean 'hutchinson'?",
        ),
        (
            {"method": ["snip"]},
            {"options": {"snip": {"alpha": 1}}},
            "options.snip: method 'snip' has no options, so no",
        ),
        (
            {"method": ["imp"]},
            {"options": {"imp": {"rewind": "2 weeks"}}},
            "options.imp: rewind = '2 weeks' must be '0', 'N epochs' or 'N steps'",
        ),
        (
            {"method": ["imp"]},
            {"options": {"imp": {"rewind": ["0", "2 epochs"]}}, "recipe": {"epochs": [3, 2]}},
            "options.imp: rewind = '2 epochs' must be before the end of the recipe, which has 2 epochs",
        ),
        (
            {"method": ["imp"], "warmup": ["1 epochs"], "rewind": [True]},
            {"options": {"imp": {"rewind": "3 steps"}}},
            "options.imp: rewind = '3 steps' cannot be combined with the axis rewind = true, which rewinds to the init",
        ),
        (
            {"warmup": ["none", "3 epochs"]},
            {"recipe": {"epochs": [3, 2]}},
            "grid.warmup = '3 epochs' is longer than the cosine schedule of the recipe, which has 2 epochs; use more",
        ),
        ({}, {"scoring": {"temperature": 1}}, "scoring.temperature is an option of methods: write it in [options."),
        ({}, {"scoring": {"batchnorm": ["running", "bath"]}}, "scoring: unknown batchnorm value 'bath'; did you mean"),
        ({}, {"recipe": {"epochs": [1, -1]}}, "recipe: epochs = -1 must be at least 0"),
        ({}, {"recipe": {"epochs": []}}, "recipe.epochs is empty: a list is an axis and needs at least one value"),
    ],
)
def test_an_unknown_name_or_value_is_one_line_with_the_nearest_name(
    axes: dict[str, Any], tables: dict[str, Any], says: str
) -> None:
    with pytest.raises(RequestError) as error:
        runs(axes, **tables)
    assert str(error.value).startswith(f"x.toml: {says}")
    assert "\n" not in str(error.value)


def test_a_warm_up_of_any_length_fits_a_constant_learning_rate() -> None:
    assert runs({"warmup": ["none", "3 epochs"]}, recipe={"epochs": 2, "schedule": "constant"}) == 2
    assert runs({"warmup": ["none", "2 epochs"]}, recipe={"epochs": 2}) == 2


def test_lists_of_options_and_settings_are_axes() -> None:
    assert runs({}, options={"mixed": {"alpha": [0.1, 0.5, 0.9]}}) == 3
    assert (
        runs({"method": ["snip", "mixed"]}, options={"mixed": {"alpha": [0.1, 0.9]}}, scoring={"rounds": [1, 2]}) == 6
    )


def test_the_alias_of_a_model_is_the_same_run() -> None:
    table = {"dataset": ["digits"], "method": ["snip"], "sparsity": [0.9], "seed": [0]}
    names = ["vgg16-bias", "lottery_vgg16_bn"]
    grids = [
        check_names(check_grid({"name": "x", "grid": table | {"model": each}}, "x"), "x")
        for each in ([names[0]], names)
    ]
    assert [run.run_id for run in grids[0].runs()] == [run.run_id for run in grids[1].runs()]
