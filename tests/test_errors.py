"""Tests that text from files and records is shown without characters that change what a reader sees."""

from __future__ import annotations

import json

import pytest

from pbt_bench.errors import printable, printable_json, printable_lines, spreadsheet_text

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
