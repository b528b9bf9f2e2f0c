"""Test that everything in README.md works in its order in a new folder: files, Python code and commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pbt_bench.pruning.plugins import pruners

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.(?:py|toml))\n")
INSTALL = ("python3 -m venv", "pip install")  # tests/test_distribution.py installs the wheel into a new environment


@pytest.mark.long
def test_what_the_readme_says_works_in_its_order_in_a_new_folder(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "pbt-bench").write_text(f'#!/bin/sh\nexec {sys.executable} -m pbt_bench.cli "$@"\n', encoding="utf-8")
    (commands / "pbt-bench").chmod(0o755)
    path = f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    script = ["set -e"]
    for language, text in BLOCK.findall(README):
        if file := FILE.match(text):
            (tmp_path / file[1]).parent.mkdir(exist_ok=True)
            (tmp_path / file[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            (tmp_path / "example.py").write_text(text, encoding="utf-8")
            script.append("python example.py")
        else:
            assert language == "console", f"a block in {language!r} that nothing checks"
            script += [line for line in re.findall(r"^\$ (.*)$", text, re.MULTILINE) if not line.startswith(INSTALL)]
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/digits/report/index.html").is_file()
    assert "first_taylor (power 0.5)" in (tmp_path / "results/mine/report/index.html").read_text(encoding="utf-8")
    for name in ("results/digits.pack", "digits.csv", "digits_curves.csv"):
        assert (tmp_path / name).is_file(), name


def test_the_readme_counts_the_methods() -> None:
    (related,) = re.findall(r"and (\d+) related methods", README)
    assert int(related) == len(list(pruners())) - 6


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make (\w+)`", README))))
def test_make_targets_of_the_readme_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
