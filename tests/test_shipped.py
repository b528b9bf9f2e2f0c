"""Tests that the verbs work with the names of shipped files in any folder, and that files of that folder win."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from pbt_bench import shipped
from pbt_bench.analysis.records.published import published_beside
from pbt_bench.cli import main
from pbt_bench.errors import note_once
from pbt_bench.running import source

ROOT = Path(__file__).parents[1]
TINY = """
name = "tiny"
[grid]
dataset = ["digits"]
model = ["vgg8"]
method = ["snip"]
sparsity = [0.9]
seed = [0]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def say(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    return code, *capsys.readouterr()


def test_a_name_is_a_shipped_study_or_the_file_of_the_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert say(capsys, "status", "digits")[1] == "digits: 258 runs: 258 missing\n"
    (folder / "digits").mkdir()
    assert say(capsys, "status", "digits")[1] == "digits: 258 runs: 258 missing\n", "a folder is no grid"
    (folder / "grids").mkdir()
    own = (ROOT / "grids/digits.toml").read_text().replace("[0, 42, 123]", "[0]")
    (folder / "grids/digits.toml").write_text(own)
    assert say(capsys, "status", "digits")[1] == "digits: 86 runs: 86 missing\n"
    assert shipped.find(shipped.STUDIES, "digits") == Path("grids/digits.toml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("status", "digit"), "unknown study 'digit'; did you mean 'digits'? (valid: digits, digits_baselines, "),
        (("status", "grids/digits.toml"), "grids/digits.toml: no such file; did you mean the study 'digits'?"),
        (("status", "nothing.toml"), "nothing.toml: No such file or directory"),
        (("submit", "digits", "--cluster", "gpus"), "unknown cluster profile 'gpus'; did you mean 'gpu'? (valid: "),
        (("list", "study"), "unknown list 'study'; did you mean 'studies'?"),
    ],
)
def test_an_unknown_name_is_one_line(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    code, _, err = say(capsys, *words)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"pbt-bench: error: {message}")


def test_studies_and_profiles_are_listed_with_their_first_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "grids").mkdir()
    (folder / "grids/mine.toml").write_text("# Mine.\nnam = 1\n")
    lines = {line.split()[0]: line for line in say(capsys, "list", "studies")[1].splitlines()}
    assert set(lines) == {"mine", *(path.stem for path in (ROOT / "grids").glob("*.toml"))}
    assert "   258 runs  The study of `make benchmark`: six methods" in lines["digits"]
    assert lines["frankle_ablations"].endswith(", on their …")
    assert lines["mine"].endswith("cannot be read: grids/mine.toml: unknown key 'nam'; did you mean 'name'? "
                                  "(valid: contributed, dense, grid, name, options, recipe, scoring)")  # fmt: skip
    assert "gpu           A cluster with GPU nodes." in say(capsys, "list", "profiles")[1]


def test_published_numbers_of_the_folder_win_and_the_others_stay(folder: Path) -> None:
    whole = published_beside(folder / "results")
    assert set(whole.about) == {path.stem for path in (ROOT / "results/published").glob("*.csv")}
    own = folder / "elsewhere/published"
    own.mkdir(parents=True)
    for suffix in (".csv", ".toml"):
        text = (ROOT / "results/published/fts_2025_table1").with_suffix(suffix).read_text()
        (own / f"fts_2025_table1{suffix}").write_text(text.replace("90.78", "12.50"))
    changed = published_beside(folder / "elsewhere")
    assert len(changed.rows) == len(whole.rows)
    assert (changed.rows["mean"] == 0.125).sum() == 1


def test_a_report_says_that_there_are_no_published_numbers(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert say(capsys, "report", "fts_table1")[0] == 0
    printed = folder / "results/fts_table1/report"
    page = (printed / "index.html").read_text()
    assert "No published" not in page
    assert "pbt-bench run fts_table1\n" in page, "the command has the name of a shipped study"
    assert "90.55" in (printed / "tables/cifar10-resnet18.md").read_text()
    (folder / "tiny.toml").write_text(TINY)
    report = folder / "results/tiny/report/index.html"
    assert say(capsys, "report", "tiny.toml")[0] == 0
    assert "No published number is of this study&#39;s dataset" in report.read_text()
    monkeypatch.setattr(shipped, "folder", lambda kind: folder / "nothing" if kind.suffix == ".csv" else ROOT / "grids")
    note_once.cache_clear()
    code, _, err = say(capsys, "report", "tiny.toml")
    assert code == 0
    assert err.startswith("note: no published numbers: neither results/published nor the installation has")
    assert "No published numbers: neither results/published nor " in report.read_text()


def test_the_starter_files_are_valid_and_nothing_is_overwritten(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = say(capsys, "init", "new")
    assert code == 0
    assert "next, in new:\n  pbt-bench run my_study.toml\n" in out
    monkeypatch.chdir("new")
    assert say(capsys, "status", "my_study.toml")[1] == "my_study: 21 runs: 21 missing\n"
    assert say(capsys, "submit", "my_study.toml", "--cluster", "my_cluster.toml", "--dry-run")[0] == 0
    assert say(capsys, "check", "my_methods/my_method.py")[0] == 0
    Path("my_study.toml").write_text("mine")
    Path("my_cluster.toml").unlink()
    found = (
        2,
        "",
        "pbt-bench: error: init: my_study.toml and my_methods/my_method.py exist already; nothing was written\n",
    )
    assert say(capsys, "init") == found
    assert Path("my_study.toml").read_text() == "mine"
    assert not Path("my_cluster.toml").exists()


def test_an_installation_from_a_repository_has_its_commit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_ROOT", folder)
    origin = {"url": "x", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    installed = SimpleNamespace(locate_file=lambda _: folder, read_text=lambda _: json.dumps(origin))
    monkeypatch.setattr(source, "distribution", lambda name: installed)
    source.code_state.cache_clear()
    assert source.code_state() == {"commit": "abc", "dirty": False}
    installed.locate_file = lambda _: folder / "other"
    source.code_state.cache_clear()
    assert source.code_state() == {"commit": None, "dirty": None}, "another copy of the code is running"
    source.code_state.cache_clear()
    monkeypatch.undo()
    assert metadata.version("pbt-bench")
