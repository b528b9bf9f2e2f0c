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

# Files that do not comply yet. Remove a file once it complies.
_NOT_YET = """
pbt_bench/analysis/ablation.py
pbt_bench/analysis/accuracy.py
pbt_bench/analysis/bounds.py
pbt_bench/analysis/browse.py
pbt_bench/analysis/cache.py
pbt_bench/analysis/columns.py
pbt_bench/analysis/conclusions.py
pbt_bench/analysis/critical.py
pbt_bench/analysis/curves.py
pbt_bench/analysis/effective.py
pbt_bench/analysis/frame.py
pbt_bench/analysis/missing.py
pbt_bench/analysis/multiples.py
pbt_bench/analysis/overlap.py
pbt_bench/analysis/overlap_figure.py
pbt_bench/analysis/page.js
pbt_bench/analysis/paired.py
pbt_bench/analysis/profiles.py
pbt_bench/analysis/published.py
pbt_bench/analysis/rank_figure.py
pbt_bench/analysis/ranks.py
pbt_bench/analysis/report.py
pbt_bench/analysis/style.py
pbt_bench/analysis/summary.py
pbt_bench/analysis/tables.py
pbt_bench/analysis/variants.py
"""
NOT_YET = frozenset(_NOT_YET.split())


def offences(path: Path) -> list[str]:
    """Return every avoided word of a file with its line number."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [f"line {number}: {word}" for number, line in enumerate(lines, 1) for word in AVOIDED.findall(line)]


def test_no_file_has_a_word_to_avoid() -> None:
    found = {path.relative_to(ROOT).as_posix(): offences(path) for path in FILES}
    assert {name: lines for name, lines in found.items() if lines and name not in NOT_YET} == {}
    assert NOT_YET - {name for name, lines in found.items() if lines} == set(), (
        "these files comply or no longer exist: remove them from the list"
    )


def test_words_are_found_in_names_and_sentences() -> None:
    assert AVOIDED.findall("the Rooms of _listed places, so many") == ["Rooms", "listed", "places", "so many"]
    assert not AVOIDED.findall(
        "Change it in place, replace it, look up two decimal places, take the place of a placeholder"
    )
