"""Tests of the source distribution and the wheel as users install them, in an environment outside the clone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from pbt_bench.version import __version__

ROOT = Path(__file__).parents[1]
TINY = ["grid.model=vgg8", "grid.method=snip", "grid.sparsity=0.9", "grid.seed=0", "recipe.epochs=1"]

pytestmark = pytest.mark.long


def call(*words: str | Path, folder: Path, **environment: str) -> str:
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=plain | environment, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    return call("git", "ls-files", folder=ROOT).splitlines()


@pytest.fixture(scope="module")
def clone(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the files that git tracks, beside files that were made there."""
    folder = tmp_path_factory.mktemp("clone")
    for name in tracked:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for made in ("docs/methods/snip.md", "docs/reference/keys.md", "grids/x.pyc", "results/digits/runs/x.json"):
        (folder / made).parent.mkdir(parents=True, exist_ok=True)
        (folder / made).touch()
    return folder


@pytest.fixture(scope="module")
def built(clone: Path) -> Path:
    """Return the folder of a source distribution and the wheel that is built from it."""
    pytest.importorskip("build")
    call(sys.executable, "-m", "build", "--outdir", "dist", folder=clone)
    return clone / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the pbt-bench of a new environment that has the wheel, and the other packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    others = [path for path in sys.path if path.endswith("site-packages")]
    here = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (here / "others.pth").write_text("\n".join(others))
    call(folder / "bin/python", "-m", "pip", "install", "--no-deps", "--no-index", wheel, folder=folder)
    return folder / "bin/pbt-bench"


def test_the_source_distribution_has_every_file(built: Path, tracked: list[str]) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    added = {name for name in names if name.startswith("pbt_bench.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - added == set(tracked)


def test_the_wheel_has_the_shipped_files_and_one_name_for_all_versions_of_python(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    folders = {"grids": "grids", "methods": "methods", "slurm": "slurm", "published": "results/published"}
    for name, folder in folders.items():
        files = {path.name for suffix in ("toml", "csv", "py") for path in (ROOT / folder).glob(f"*.{suffix}")}
        files.discard("test-cluster.toml")
        assert {Path(each).name for each in names if each.startswith(f"pbt_bench/{name}/")} == files
    compiled = "pbt_bench/sparse/kernels/_kernels.so" in names
    assert compiled or shutil.which("cc") is None
    assert re.fullmatch(r"pbt_bench-[\d.]+-py3-none-(linux|macosx)_\w+\.whl" if compiled else ".*-any.whl", wheel.name)


def test_without_a_compiler_the_wheel_is_pure(clone: Path) -> None:
    words = ("-m", "build", "--wheel", "--outdir", "pure")
    call(sys.executable, *words, folder=clone, CC="false")
    assert [path.name for path in (clone / "pure").iterdir()] == [f"pbt_bench-{__version__}-py3-none-any.whl"]


def test_the_description_is_valid_and_has_no_relative_link(built: Path, wheel: Path) -> None:
    pytest.importorskip("twine")
    call(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir(), folder=built)
    text = zipfile.ZipFile(wheel).read(f"pbt_bench-{__version__}.dist-info/METADATA").decode()
    links = re.findall(r'(?:\]\(|(?:src|href)=")([^)"\s]+)', text)
    assert len(links) > 5
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_the_verbs_work_in_an_empty_folder(command: Path, tmp_path: Path) -> None:
    words = [word for each in TINY for word in ("--set", each)]
    call(command, "run", "digits", *words, "--workers", "1", folder=tmp_path)
    records = [json.loads(path.read_text()) for path in (tmp_path / "results/digits/runs").iterdir()]
    assert {record["status"] for record in records} == {"done"}
    assert {record["environment"]["pbt_bench"] for record in records} == {__version__}
    assert {record["environment"]["commit"] for record in records} == {None}
    assert "digits: 2 of 2 verified" in call(command, "audit", "digits", *words, folder=tmp_path)
    call(command, "report", "fts_table1", folder=tmp_path)
    assert "90.55 ± 0.23" in (tmp_path / "results/fts_table1/report/tables/cifar10-resnet18.md").read_text()
    call(command, "init", folder=tmp_path)
    assert "21 missing" in call(command, "status", "my_study.toml", folder=tmp_path)
    assert call(command, "--version", folder=tmp_path).startswith(f"pbt-bench {__version__}, commit unknown, torch ")
    assert "gpu  A cluster" in call(command, "list", "profiles", folder=tmp_path)
    studies = call(command, "list", "studies", folder=tmp_path).splitlines()
    assert len(studies) == len(list((ROOT / "grids").glob("*.toml")))


def test_the_papers_page_has_the_published_numbers(command: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    shutil.copy(ROOT / "grids/fts_table1.toml", tmp_path / "few")
    said = call(command, "paper", "--grids", "few", folder=tmp_path)
    assert said.startswith("fts_table1: 0 of 138 runs, published numbers alone\n")
    assert "90.55" in (tmp_path / "results/paper/index.html").read_text()
