"""Tests that every file named in CONTRIBUTING.md and docs/architecture.md exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    named = re.findall(r"`([\w./]+\.(?:py|j2|md|toml|yaml|cff)|[\w./]+/)`", (ROOT / page).read_text(encoding="utf-8"))
    assert len(named) > 15
    names = {path.relative_to(ROOT).as_posix() for folder in (ROOT, ROOT / "docs") for path in folder.glob("*")}
    for folder in ("pbt_bench", "docs", "tests", "methods", "grids", "results", "benchmarks", "slurm", "claims"):
        names |= {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*")}
    names |= {Path(name).name for name in names}
    missing = {name.rstrip("/") for name in named} - names
    assert {name for name in missing if Path(name).name != "NAME.py"} == set()
