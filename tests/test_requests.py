"""Tests that extreme requests are one line, and answered within seconds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from pbt_bench.cli import main

GRID = """
name = "tiny"
[grid]
dataset = ["digits"]
model = ["vgg8"]
method = ["magnitude"]
sparsity = [0.9]
seed = [0]
[recipe]
epochs = 1
"""
LONG = "a" * 5000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(GRID)
    (tmp_path / "file").write_text("x")
    return tmp_path


def one_line(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    start = time.process_time()
    code = main(words)
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert err.startswith("pbt-bench: error: ")
    assert time.process_time() - start < 20
    return code, err[:1000]


GRIDS = {
    "deep list": (GRID + "x = " + "[" * 20_000 + "]" * 20_000, "not a TOML file: maximum recursion depth exceeded"),
    "deep tables": (GRID + "[options.magnitude" + ".a" * 900 + "]\nx = 1", "has no options"),
    "long seed": (GRID.replace("[0]", "[" + "1" * 5001 + "]"), "value has 5001 digits"),
    "three million seeds": (GRID.replace("[0]", f"[{'1, ' * 3_000_000}]"), "a TOML file of settings has at most"),
    "a million runs": (
        GRID.replace("[0]", str(list(range(1000)))).replace("[0.9]", str([n / 1000 for n in range(1000)])),
        "1,000,000 runs; a study has at most 250,000",
    ),
    "published": (GRID.replace("tiny", "published"), "the folder results/published has published numbers"),
    "paper": (GRID.replace("tiny", "paper"), "the folder results/paper has the papers' page"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), GRIDS.values(), ids=GRIDS)
def test_an_extreme_grid_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    (folder / "x.toml").write_text(text)
    code, line = one_line(capsys, "status", "x.toml")
    assert code == 2
    assert message in line


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["status", "tiny.toml", "--results", "file"], 2, "--results file: neither a folder nor a packed study"),
        (["report", "tiny.toml", "--results", "file"], 2, "--results file: neither a folder nor a packed study"),
        (["run", "tiny.toml", "--results", "file"], 2, "--results file: neither a folder nor a packed study"),
        (["report", "tiny.toml", "--out", "file/x"], 1, "Not a directory"),
        (["report", "tiny.toml", "--out", "file"], 1, "Not a directory"),
        (["report", "tiny.toml", "--out", LONG], 1, "File name too long"),
        (["status", "tiny.toml", "--results", LONG], 1, "File name too long"),
        (["show", "abcd", "--results", LONG], 1, "File name too long"),
        (["status", f"{LONG}.toml"], 2, "File name too long"),
        (["audit", "tiny.toml", "--sample", "-1"], 2, "--sample -1: must be at least 0"),
        (["run", "tiny.toml", "--checkpoint-minutes", "nan"], 2, "must be finite and at least 0"),
        (["run", "tiny.toml", "--checkpoint-minutes", "-1"], 2, "must be finite and at least 0"),
        (["status", "tiny.toml", "--set", "recipe.lr=0.1"], 2, "did you mean 'recipe.learning_rate'?"),
        (["status", "tiny.toml", "--set", "sparsity=0.9"], 2, "did you mean 'grid.sparsity'?"),
        (["status", "tiny.toml", "--set", "grid.dataset=CIFAR-10"], 2, "did you mean 'cifar10'?"),
        (["status", "tiny.toml", "--set", "recipe.learning_rate=inf"], 2, "learning_rate = inf must be finite"),
        (["status", "tiny.toml", "--set", f"grid.seed=[{'1' * 5001}]"], 2, "1… must be a whole number, not a text"),
    ],
)  # fmt: skip
def test_an_extreme_argument_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    found, line = one_line(capsys, *words)
    assert found == code
    assert message in line


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_grid_with_a_byte_order_mark_is_read(folder: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    (folder / "x.toml").write_bytes((mark + GRID.replace("\n", "\r\n")).encode(encoding))
    assert main(["status", "x.toml"]) == 0


def test_a_file_in_another_encoding_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "x.toml").write_bytes(b'# caf\xc3\xa9\nname = "caf\xe9"\n')
    code, line = one_line(capsys, "status", "x.toml")
    assert code == 2
    assert "not a TOML file: line 2 is not in UTF-8: save the file as UTF-8" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_cuda_without_a_gpu_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str], device: str) -> None:
    code, line = one_line(capsys, "run", "tiny.toml", "--device", device)
    assert code == 2
    assert f"--device {device}: not on this machine: " in line
    assert line.endswith("(valid: cpu)\n")
