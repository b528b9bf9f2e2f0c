"""Tests of messages: hints at the nearest name, and text from files without characters that mislead a reader."""

from __future__ import annotations

import json

import pytest

from pbt_bench.errors import printable, printable_json, printable_lines, spreadsheet_text, unknown

HIDDEN = [0x1B, 0x7F, 0x9B, 0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]


@pytest.mark.parametrize("code", HIDDEN)
def test_control_and_direction_changing_characters_are_replaced(code: int) -> None:
    text = f"a{chr(code)}b"
    assert printable(text) == printable_lines(text) == "a?b"
    shown = printable_json(json.dumps({"x": text}, ensure_ascii=False))
    assert shown.isprintable()
    assert json.loads(shown) == {"x": text}


def test_lines_and_letters_are_kept() -> None:
    assert printable_lines("α ± 1\nβ") == "α ± 1\nβ"
    assert printable("α ± 1\nβ") == "α ± 1?β"


@pytest.mark.parametrize(
    ("text", "safe"),
    [("=1+1", "'=1+1"), ("+cmd", "'+cmd"), ("-x", "'-x"), ("@sum", "'@sum"), ("-0.25", "-0.25"), ("+1.20", "+1.20"),
     ("90.00 ± 2.00", "90.00 ± 2.00"), ("snip", "snip"), ("–", "–"), ("", "")],
)  # fmt: skip
def test_a_spreadsheet_does_not_execute_a_text_and_numbers_stay_numbers(text: str, safe: str) -> None:
    assert spreadsheet_text(text) == safe


@pytest.mark.parametrize(
    ("name", "valid", "near"),
    [
        ("SNIP", ["snip", "iter_snip", "fts"], "snip"), ("GraSP", ["ria", "grasp"], "grasp"),
        ("SynFlow", ["synflow_l2", "synflow"], "synflow"), ("CIFAR-10", ["cifar100", "cifar10"], "cifar10"),
        ("Tiny ImageNet", ["imagenet", "tiny-imagenet"], "tiny-imagenet"), ("VGG16", ["vgg16", "vgg16-bias"], "vgg16"),
        ("ResNet-18", ["resnet18-imagenet", "resnet18"], "resnet18"),
        ("WRN-28-2", ["wrn-28-10", "wrn-28-2"], "wrn-28-2"),
        ("recipe.lr", ["recipe.learning_rate", "recipe.gamma"], "recipe.learning_rate"),
        ("recipe.wd", ["recipe.learning_rate", "recipe.weight_decay"], "recipe.weight_decay"),
        ("snpi", ["snip", "fts"], "snip"),
    ],
)  # fmt: skip
def test_a_name_as_papers_write_it_finds_the_nearest(name: str, valid: list[str], near: str) -> None:
    assert f"unknown method {name!r}; did you mean {near!r}? (valid: " in str(unknown("method", name, valid))


def test_a_name_like_none_has_no_hint() -> None:
    assert str(unknown("key", "...", ["a_b", "c"])) == "unknown key '...' (valid: a_b, c)"
