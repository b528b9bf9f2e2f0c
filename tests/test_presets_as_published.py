"""Tests that every value of every preset is that of the published code (tests/published_presets.py has the lines)."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from published_presets import PUBLISHED, SNIP_PAPER

from pbt_bench.pruning.plugins import pruners
from pbt_bench.recipes import PRESETS
from pbt_bench.spec import Recipe, Scoring


def effective(name: str) -> tuple[Recipe, Scoring, dict[str, Any]]:
    """Recipe, scoring and options of a preset; an option has one value for all methods of the preset."""
    preset = PRESETS[name]
    options: dict[str, Any] = {}
    for _, entry in pruners().items():
        own = preset.options.get(entry.name, {})
        for key, option in entry.options.items():
            if key in own or key not in options:
                options[key] = own.get(key, option.default)
    return (
        Recipe(**{**preset.recipe, "milestones": tuple(preset.recipe["milestones"])}),
        Scoring(**preset.scoring),
        options,
    )


def test_every_preset_is_listed() -> None:
    assert list(PUBLISHED) == list(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_every_field_of_a_preset_has_a_source_and_its_value(name: str) -> None:
    published = PUBLISHED[name]
    assert re.fullmatch(r"[0-9a-f]{40}", published.commit)
    training = {"epochs", "batch_size", "optimizer", "learning_rate", "momentum", "nesterov", "weight_decay"}
    training |= {"schedule", "milestones", "gamma", "augment", "crop_padding"}
    preset = PRESETS[name]
    recipe, scoring, options = effective(name)
    given = {*preset.scoring, *(key for own in preset.options.values() for key in own)}
    assert preset.recipe.keys() | training <= published.recipe.keys(), "a field without a source"
    assert given | {"prune_classifier"} <= published.scoring.keys(), "a field without a source"
    for table, used in (
        (published.recipe, msgspec.structs.asdict(recipe)),
        (published.scoring, options | msgspec.structs.asdict(scoring)),
    ):
        for field, (value, source) in table.items():
            assert re.search(r"[\w/]\.(py|json|md|sh|yml):\d+(-\d+)?$", source) or source == SNIP_PAPER, field
            assert used[field] == (tuple(value) if isinstance(value, list) else value), field


def published_scoring(method: str, dataset: str) -> dict[str, Any]:
    """The scoring fields that the method's own code sets on a dataset."""
    values = pruners()[method].published(dataset)
    return {name: value for name, value in values.items() if name in Scoring.__struct_fields__}


@pytest.mark.parametrize(
    ("preset", "method", "dataset", "beside"),
    [
        ("fts-2025", "fts", "cifar10", {}),
        ("grasp-2020-vgg", "grasp", "cifar10", {}),
        ("grasp-2020-resnet", "grasp", "cifar10", {}),
        ("snip-2019", "snip", "cifar10", {}),
        ("snip-2019-paper", "snip", "cifar10", {}),
        ("force-2021", "force", "cifar10", {}),
        ("force-2021", "iterative_snip", "cifar10", {}),
        ("force-2021-cifar100", "force", "cifar100", {}),
        ("force-2021-tiny-imagenet", "force", "tiny-imagenet", {}),
        ("prospr-2022", "prospr", "cifar10", {}),
        ("ntk-sap-2023", "ntk_sap", "cifar10", {"augment": True, "batchnorm": "batch"}),  # NTK-SAP reads neither
        # One temperature for all methods of a grid: only `protocol = "original"` gives the Hutchinson methods 200.
        ("fts-2025-v2", "hutchinson_pruning", "cifar10", {"loss_temperature": 1.0}),
    ],
)
def test_the_scoring_of_a_preset_is_that_of_the_methods_own_code(
    preset: str, method: str, dataset: str, beside: dict[str, Any]
) -> None:
    assert effective(preset)[1] == Scoring(**{**published_scoring(method, dataset), **beside})
