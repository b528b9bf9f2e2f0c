"""Tests that execute the code blocks of the guide: Python code, grid files, profiles, job files and commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pbt_bench.analysis.pages.report import PARTS
from pbt_bench.cli import _parser
from pbt_bench.grid_file import load_grid
from pbt_bench.running.slurm.profile import load_profile

ROOT = Path(__file__).parents[2]
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.(?:py|toml|sh|yaml))\n")


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", GUIDE, ids=lambda page: page.stem)
def test_what_a_page_says_runs_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a block that begins with `# NAME.py` or `# NAME.toml` to that file, and run every line after `$ `."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grids").symlink_to(ROOT / "grids")
    names: dict[str, object] = {}
    for language, text in blocks(page):
        if file := FILE.match(text):
            Path(file[1]).parent.mkdir(exist_ok=True)
            Path(file[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, str(page), "exec"), names)
        elif language == "console":
            for command in re.findall(r"^\$ (.*)$", text, re.MULTILINE):
                run(command, tmp_path)
        else:
            assert language == "text", f"{page}: a block in {language!r} that nothing checks"


def run(command: str, folder: Path) -> None:
    """Run one command with the pbt-bench of this environment. For `make`, check only that the target exists.

    A Python file that needs a package that is not installed here is only compiled (see the extra `examples`).
    """
    words = shlex.split(command)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
        return
    assert words[0] in ("pbt-bench", "python"), command
    if words[0] == "python":
        text = (folder / words[1]).read_text(encoding="utf-8")
        compile(text, words[1], "exec")
        needed = re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)
        if not all(map(find_spec, needed)):
            return
    done = subprocess.run(
        [sys.executable, *(["-m", "pbt_bench.cli"] if words[0] == "pbt-bench" else []), *words[1:]],
        cwd=folder, capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert done.stdout


def commands(language: str, text: str) -> list[list[str]]:
    """Return the words of each call of pbt-bench in a job file, which must be a shell script or YAML."""
    if language == "bash":
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        return [shlex.split(line)[1:] for line in text.splitlines() if "pbt-bench run" in line]
    yaml = pytest.importorskip("yaml")
    containers = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    return [container["command"] for container in containers]


def test_job_files_call_pbt_bench_with_valid_arguments() -> None:
    page = ROOT / "docs/guide/without_slurm.md"
    found = [call for name, text in blocks(page) if name in ("bash", "yaml") for call in commands(name, text)]
    assert [Path(call[0]).name for call in found] == ["pbt-bench"] * 3
    for call in found:
        options = _parser().parse_args(call[1:])
        assert (Path(options.grid).name, options.device) == ("small.toml", "cuda")


@pytest.mark.parametrize("page", [*GUIDE, ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda p: p.stem)
def test_toml_in_the_pages_is_a_grid_or_a_profile(page: Path, tmp_path: Path) -> None:
    for language, text in blocks(page):
        if language == "toml":
            (tmp_path / "file.toml").write_text(text, encoding="utf-8")
            (load_grid if "[grid]" in text else load_profile)(tmp_path / "file.toml")


def test_every_section_of_a_report_is_explained() -> None:
    terms = re.findall(r"^(.+)\n: ", (ROOT / "docs" / "guide" / "report.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(PARTS) > 5
    assert [section for section in PARTS if section not in terms] == []
