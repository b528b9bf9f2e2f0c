"""Tests that code and documentation use the names of docs/glossary.md and avoid unclear words."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATTERNS = (
    "pbt_bench/**/*.py", "pbt_bench/**/*.[ch]", "pbt_bench/**/*.j2", "pbt_bench/**/*.js", "methods/*.py",
    "benchmarks/*.py", "grids/*.toml", "slurm/*.toml", "docs/*.md", "docs/guide/*.md", "docs/reference/api.md",
    "docs/_ext/*.py", "*.md", "Makefile", "pyproject.toml",
)  # fmt: skip
FILES = sorted({path for pattern in PATTERNS for path in ROOT.glob(pattern)})

AVOIDED = re.compile(
    r"(?<![a-z])("
    r"rooms?"  # package, module
    r"|houses?(?! numbers?)"
    r"|wish(?:es)?"  # request
    r"|looks(?! (?:for|like|up))|look(?=\.\w)|(?<=as )look"  # style; check
    r"|(?<!in )(?<!in-)(?<!in_)(?<!decimal )places?(?! of )"  # layer, position, channel set, index, device
    r"|listed"  # kept; indices; named
    r"|what is kept|that which|so many|anew"
    r")(?![a-z])",
    re.IGNORECASE,
)


def offences(path: Path) -> list[str]:
    """Return every avoided word of a file with its line number."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [f"line {number}: {word}" for number, line in enumerate(lines, 1) for word in AVOIDED.findall(line)]


def test_no_file_has_a_word_to_avoid() -> None:
    found = {path.relative_to(ROOT).as_posix(): offences(path) for path in FILES}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_words_are_found_in_names_and_sentences() -> None:
    assert AVOIDED.findall("the Rooms of _listed places, so many") == ["Rooms", "listed", "places", "so many"]
    assert not AVOIDED.findall(
        "Change it in place, replace it, look up two decimal places, take the place of a placeholder"
    )
