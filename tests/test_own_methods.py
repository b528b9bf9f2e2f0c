"""Tests of methods, scopes, a model and a dataset that were written from the guide alone: tests/own_methods."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pbt_bench
from pbt_bench.cli import main
from pbt_bench.pruning.plugins import pruners

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "own_methods"
METHODS = {  # method -> its file
    "quiet": "elementwise", "lively": "own_statistic", "balanced": "own_option", "agreeing": "shared",
    "random_strong_ends": "scope_of_a_method", "relative_magnitude": "per_sparsity", "luckiest": "mask_search",
    "returning": "rounds", "channel_mean": "for_channels",
}  # fmt: skip
HEAD = """
name = "{name}"
[grid]
dataset = ["digits"]
model = ["vgg8"]
sparsity = [0.9]
seed = [0]
method = {methods}
{axes}
[recipe]
epochs = 0
[scoring]
samples_per_class = 4
batchnorm = ["calibrated", "batch"]
"""
OPTIONS = """
[options.balanced]
power = [0.2, 0.8]
signed = [false, true]
[options.agreeing]
samples = [2, 3]
[options.luckiest]
candidates = 2
"""
GRIDS = {  # name -> (grid file, number of runs: method variants x axes x values of batchnorm, and the dense run)
    "all": (HEAD.format(name="all", methods=list(METHODS), axes="") + OPTIONS, (9 + 3 + 1) * 2 + 1),
    "scopes": (HEAD.format(name="scopes", methods=["quiet", "returning"], axes='scope = ["root"]'), 2 * 2 + 1),
    "patterns": (
        HEAD.format(
            name="patterns", methods=["channel_mean", "lively", "returning"], axes='pattern = ["2:4", "channel"]'
        ).replace("0.9", "0.5"),
        3 * 2 * 2 + 1,
    ),
    "data": (
        HEAD.format(name="data", methods=["balanced", "agreeing"], axes='protocol = ["original"]')
        .replace("digits", "checkers")
        .replace("vgg8", "two_convolutions"),
        2 * 2 + 1,
    ),
}


def call(folder: Path, *words: str) -> str:
    own = {
        "PBT_BENCH_METHODS": FOLDER,
        "PBT_BENCH_MODELS": FOLDER / "models",
        "PBT_BENCH_DATASETS": FOLDER / "datasets",
        "PYTHONPATH": ROOT,
    }
    done = subprocess.run(
        [sys.executable, "-m", "pbt_bench.cli", *words], cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, **{name: str(value) for name, value in own.items()}},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which all grids were run."""
    folder = tmp_path_factory.mktemp("own")
    for name, (text, _) in GRIDS.items():
        (folder / f"{name}.toml").write_text(text.replace("'", '"'))
        call(folder, "run", f"{name}.toml", "--workers", "2")
    return folder


@pytest.mark.parametrize("name", GRIDS)
def test_every_run_ends(results: Path, name: str) -> None:
    frame = pbt_bench.load_results(results / "results" / name)
    assert len(frame) == GRIDS[name][1]
    assert set(frame.status) <= {"done", "collapsed"}


def test_options_are_lines_of_the_report(results: Path) -> None:
    assert call(results, "report", "all.toml").startswith("report: ")
    page = (results / "results/all/report/index.html").read_text()
    for variant in ("balanced (power 0.2, signed true)", "agreeing (samples 3)", "luckiest (candidates 2)"):
        assert variant in page


def test_lists_show_what_the_files_define(tmp_path: Path) -> None:
    methods = call(tmp_path, "list", "methods")
    assert set(METHODS) <= {line.split()[0] for line in methods.splitlines()}
    assert re.search(r"^balanced .*made for the tests\]  options: power = 0.5, signed = false$", methods, re.MULTILINE)
    assert re.search(r"^agreement .*\]  options: samples = 4$", call(tmp_path, "list", "statistics"), re.MULTILINE)
    for what, name in (("scopes", "root"), ("models", "two_convolutions"), ("datasets", "checkers")):
        assert re.search(rf"^{name} .*\[made for the tests\]$", call(tmp_path, "list", what), re.MULTILINE)


@pytest.fixture
def fresh() -> Iterator[None]:
    pruners.cache_clear()
    yield
    pruners.cache_clear()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_every_file_passes_its_checks(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(file)]) == 0, capsys.readouterr().out
