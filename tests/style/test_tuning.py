"""Every constant of a `tuning` module has a measurement in benchmarks/tuning.py and a table in benchmarks/tuning.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT, LOG = ((ROOT / "benchmarks" / name).read_text(encoding="utf-8") for name in ("tuning.py", "tuning.md"))


def constants(path: Path) -> dict[str, str]:
    """Return the value of each constant, with thousands separated."""
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    code = {ast.unparse(node.targets[0]): ast.unparse(node.value) for node in nodes if isinstance(node, ast.Assign)}
    return {name: f"{eval(value):,}" for name, value in code.items()}


def test_every_tuned_constant_is_measured_and_logged_with_its_value() -> None:
    modules = (ROOT / "pbt_bench").glob("*/tuning.py")
    tuned = {name: value for path in modules for name, value in constants(path).items()}
    assert len(tuned) > 10
    assert set(tuned) - set(re.findall(r'@measures\(\w+, "(\w+)"', SCRIPT)) == set()
    assert tuned.items() - dict(re.findall(r"^## (\w+) = (\S+)$", LOG, re.MULTILINE)).items() == set()
