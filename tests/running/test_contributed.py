"""Tests that a contributed study is checked, and refused in one line if it does not hold."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch

from pbt_bench.cli import main
from pbt_bench.errors import RequestError
from pbt_bench.grid_file import load_grid
from pbt_bench.running.audit_log import auditors
from pbt_bench.running.contributed import check_contributed, contributed_files, read_contributed
from pbt_bench.running.execute import Executed, Executor
from pbt_bench.running.merge import pack
from pbt_bench.running.store import Store

STUDY = """
name = "mine"
[grid]
dataset = ["digits"]
model = ["vgg8"]
method = ["snip", "magnitude"]
sparsity = [0.9]
seed = [0]
[recipe]
epochs = 1
batch_size = 256
[scoring]
samples_per_class = 2
"""
ABOUT = '[contributed]\nby = "Jane Doe"\nlink = "https://example.org/mine"\nnote = "On a laptop."\n'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Executed]:
    path = tmp_path_factory.mktemp("grid") / "mine.toml"
    path.write_text(STUDY, encoding="utf-8")
    executor = Executor(Path("nowhere"), torch.device("cpu"))
    return [executor.execute(spec) for spec in load_grid(path).runs()]


@pytest.fixture
def contribute(made: list[Executed], tmp_path: Path) -> Callable[..., Path]:
    """Return a function that packs the runs, some of them changed, and returns the folder of contributed studies."""

    def pack_runs(change: Callable[[Executed], Executed | None] = lambda run: run, about: str = ABOUT) -> Path:
        store = Store(tmp_path / "mine")
        store.prepare()
        for run in made:
            if changed := change(run):
                store.write(changed.record, changed.masks)
        folder = tmp_path / "contributed"
        folder.mkdir()
        pack(store.folder, folder / "mine.pack")
        shutil.rmtree(store.folder)
        (folder / "mine.toml").write_text(STUDY + about, encoding="utf-8")
        return folder

    return pack_runs


def checked(folder: Path) -> list[tuple[str, str]]:
    return list(check_contributed(folder, Path("nowhere"), "cpu", sample=3, by="CI"))


def test_a_study_that_holds_is_verified_and_on_the_board(
    contribute: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = contribute()
    assert checked(folder) == [("mine", "")]
    study = read_contributed(folder / "mine.toml")
    ids = [spec.run_id for spec in study.specs]
    assert set(auditors(study.store, ids).values()) == {"CI"}
    assert main(["board", str(folder), "--out", str(tmp_path / "board")]) == 0
    assert capsys.readouterr().out == f"board: {tmp_path / 'board/index.html'}\n"
    page = (tmp_path / "board/index.html").read_text(encoding="utf-8")
    assert '<a href="https://example.org/mine">Jane Doe</a>: On a laptop.' in page
    assert 'href="https://arxiv.org/abs/1810.02340"' in page  # SNIP
    assert "mine (Jane Doe)" in page
    assert re.search(r">Jane Doe</a>: On a laptop.</td><td[^>]*>(masks of \d by CI, )?training of 2 by CI<", page)
    assert "training of 1 by CI" in page
    assert "digits / vgg8" in page
    assert main(["audit", str(folder), "--sample", "0"]) == 0
    assert capsys.readouterr().out == "mine: verified\n"


def better(run: Executed) -> Executed:
    """Change every run, because the audit retrains a sample only."""
    if run.record.metrics is None:
        return run
    metrics = msgspec.structs.replace(run.record.metrics, test_accuracy=1.0, test_accuracy_at_best_validation=1.0)
    return Executed(msgspec.structs.replace(run.record, metrics=metrics), run.masks)


def other_layers(run: Executed) -> Executed:
    if run.record.pruning is None:
        return run
    pruning = msgspec.structs.replace(run.record.pruning, effective_sparsity=0.95)
    return Executed(msgspec.structs.replace(run.record, pruning=pruning), run.masks)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (better, "recomputed, its "),
        (other_layers, "effective_sparsity is 0.95, but its masks give"),
        (lambda run: run if run.record.spec.method != "snip" else None, "1 of 3 runs have no result"),
    ],
)
def test_a_study_that_does_not_hold_is_refused_in_one_line(
    contribute: Callable[..., Path], change: Callable[[Executed], Executed | None], why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = contribute(change)
    assert main(["audit", str(folder), "--sample", "3"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("mine: refused: ")
    assert why in line


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ("", "needs a table [contributed]"),
        ("[contributed]\nname = 1\n", "unknown key 'name'"),
        ('[contributed]\nby = " "\n', "by = ' ' must be a name"),
        ('[contributed]\nby = "J"\nlink = "javascript:alert(1)"\n', "must be an address that begins with https://"),
    ],
)
def test_an_incomplete_contribution_is_refused_in_one_line(
    contribute: Callable[..., Path], about: str, why: str
) -> None:
    ((name, said),) = checked(contribute(about=about))
    assert name == "mine"
    assert why in said
    assert "\n" not in said


def test_both_files_have_one_name_and_only_methods_of_the_project(contribute: Callable[..., Path]) -> None:
    folder = contribute()
    text = (folder / "mine.toml").read_text(encoding="utf-8")
    (folder / "mine.toml").write_text(text.replace('"snip"', '"snop"'), encoding="utf-8")
    assert "unknown method 'snop'" in checked(folder)[0][1]
    (folder / "mine.toml").write_text(text.replace('"mine"', '"yours"'), encoding="utf-8")
    assert "name = 'yours' must be the name of the file, 'mine'" in checked(folder)[0][1]
    (folder / "mine.toml").rename(folder / "other.toml")
    with pytest.raises(RequestError, match=r"mine.toml is missing beside it"):
        contributed_files(folder)
    (folder / "mine.pack").unlink()
    assert "other.pack is missing beside it" in checked(folder)[0][1] or "must be the name" in checked(folder)[0][1]


def test_the_board_compares_runs_of_equal_settings_across_studies(
    contribute: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pbt_bench.analysis.pages.board import write_board

    folder = contribute()
    shutil.copy(folder / "mine.pack", tmp_path / "again.pack")
    page = write_board([folder, tmp_path / "again.pack"], tmp_path / "out").read_text(encoding="utf-8")
    assert "3 different runs of 2 studies" in page
    assert page.count("<section>") == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="empty: no runs there"):
        write_board([tmp_path / "empty"], tmp_path)
    with pytest.raises(RequestError, match="absent: no runs there"):
        write_board([folder, tmp_path / "absent"], tmp_path)
    with pytest.raises(RequestError, match="no runs in "):
        write_board([tmp_path / "empty"] * 2, tmp_path)
    capsys.readouterr()
    assert write_board([folder, tmp_path / "empty"], tmp_path / "both").is_file()
    assert capsys.readouterr().err.startswith(f"note: {tmp_path / 'empty'}: no runs there")
