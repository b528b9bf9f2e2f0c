"""Tests of init = "pretrained": weights of state files and of model libraries, without a network connection."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pbt_bench.cli import main
from pbt_bench.errors import RequestError
from pbt_bench.grid_file import load_grid
from pbt_bench.models import build
from pbt_bench.running.execute import Executor
from pbt_bench.running.record import digest

GRID = """
name = "tuned"
[grid]
dataset = ["digits"]
model = ["vgg8"]
method = ["magnitude"]
sparsity = [0.5]
seed = [0]
init = ["pretrained weights/vgg8.pt"]
[recipe]
epochs = 0
"""


def states(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: nn.Module, second: dict[str, Tensor]) -> set[str]:
    return {name for name, value in first.state_dict().items() if torch.equal(value, second[name])}


@pytest.mark.parametrize(
    "wrap", [dict, lambda state: {"state_dict": state, "epoch": 3}, lambda state: {"model": state}]
)
def test_a_state_file_gives_every_weight(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    state = states(build("resnet8", 3, 10, seed=5))
    torch.save(wrap(state), tmp_path / "a b.pt")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a b.pt", "a.safetensors"):
        model = build("resnet8", 3, 10, 0, f"pretrained {name}", folder=tmp_path)
        assert same(model, state) == state.keys()


@pytest.mark.parametrize("headless", [False, True])
def test_a_classifier_for_other_classes_keeps_the_weights_of_the_seed(headless: bool, tmp_path: Path) -> None:
    state, plain = states(build("resnet8", 3, 10, seed=5)), states(build("resnet8", 3, 7, seed=1))
    head = {name for name in state if state[name].shape != plain[name].shape}
    assert len(head) == 2
    torch.save({name: value for name, value in state.items() if not (headless and name in head)}, tmp_path / "a.pt")
    model = build("resnet8", 3, 7, 1, "pretrained a.pt", folder=tmp_path)
    assert head <= same(model, plain)
    assert same(model, state) == state.keys() - head


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    state = states(build("resnet8", 3, 10, seed=5))
    first = next(iter(state))
    for name, content, message in (
        ("other.pt", states(build("vgg8", 3, 10, 0)), r"it does not fit the model; missing or of another shape: conv1"),
        ("shape.pt", state | {first: torch.ones(2)}, rf"missing or of another shape: {first}$"),
        ("more.pt", state | {"more\x1b[2J": torch.ones(2)}, r"it does not fit the model; unknown: more\?\[2J$"),
        ("list.pt", [1], r"list.pt: a list, not the state dict of a model$"),
        ("code.pt", nn.Linear(2, 2), r"code.pt: not a state file: damaged, or with objects other than tensors$"),
    ):
        torch.save(content, tmp_path / name)
        with pytest.raises(RequestError, match=message) as error:
            build("resnet8", 3, 10, 0, f"pretrained {name}", folder=tmp_path)
        assert str(error.value).isprintable()
    with pytest.raises(
        RequestError, match=r"/absent.pt: no such state file \(its name is relative to the data folder\)$"
    ):
        build("resnet8", 3, 10, 0, "pretrained absent.pt", folder=tmp_path)
    with pytest.raises(RequestError, match=r"^init = 'pretrained': 'resnet8' has no published weights"):
        build("resnet8", 3, 10, 0, "pretrained", folder=tmp_path)


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    draw, torch_file, other = random.Random(0), tmp_path / "a.pt", tmp_path / "a.safetensors"
    state = {"weight": torch.ones(2, 3)}
    torch.save(state, torch_file)
    save_file(state, other)
    for file in (torch_file, other):
        whole = file.read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            damaged[draw.randrange(len(whole))] = draw.randrange(256)
            file.write_bytes(damaged[: draw.choice([len(whole), draw.randrange(len(whole))])])
            with suppress(RequestError):
                build("resnet8", 3, 10, 0, f"pretrained {file.name}", folder=tmp_path)


def test_a_run_starts_from_a_state_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = tmp_path / "tuned.toml"
    grid.write_text(GRID)
    assert main(["run", str(grid), "--workers", "1", "--data", "here"]) == 2
    expected = "here/weights/vgg8.pt: no such state file (its name is relative to the data folder)"
    assert capsys.readouterr().err.endswith(f"pbt-bench: error: {expected}\n")
    assert not list((tmp_path / "results" / "tuned" / "runs").iterdir())

    model = build("vgg8", 1, 10, seed=9, size=8)
    (tmp_path / "here" / "weights").mkdir(parents=True)
    torch.save(model.state_dict(), tmp_path / "here" / "weights" / "vgg8.pt")
    executor = Executor(tmp_path / "here", torch.device("cpu"))
    for spec in load_grid(grid).runs():
        record = executor.execute(spec).record
        assert record.status == "done", record.error
        assert len(record.environment["initial_weights"]) == 64
        if spec.method == "dense":
            assert record.metrics
            assert record.metrics.weights_digest == digest({name: v.numpy() for name, v in model.state_dict().items()})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('init = ["pretrained"]', "tuned.toml: init = 'pretrained': 'vgg8' has no published weights"),
        (
            'init = ["pretrained a.pt"]\nsanity = ["reinit"]',
            "sanity = 'reinit' cannot be combined with init = 'pretrain",
        ),
        (
            'init = ["pretrained  "]',
            "init = 'pretrained  ' must be 'default', 'kaiming', 'orthogonal', 'pretrained' or",
        ),
    ],
)
def test_an_axis_that_cannot_be_is_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tuned.toml").write_text(GRID.replace('init = ["pretrained weights/vgg8.pt"]', text))
    assert main(["status", str(tmp_path / "tuned.toml"), "--results", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_file_is_part_of_the_run_id(tmp_path: Path) -> None:
    (tmp_path / "tuned.toml").write_text(GRID)
    (tmp_path / "other.toml").write_text(GRID.replace("vgg8.pt", "other.pt"))
    ids = [{run.run_id for run in load_grid(tmp_path / name).runs()} for name in ("tuned.toml", "other.toml")]
    assert len(ids[0] | ids[1]) == 4


def test_weights_of_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Their download is replaced: tests have no network connection."""
    published = states(build("torchvision/squeezenet1_1", 3, 1000, seed=3))
    asked = []

    def download(url: str, *_: Any, **__: Any) -> dict[str, Tensor]:
        asked.append(url)
        return published

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    model = build("torchvision/squeezenet1_1", 3, 10, 0, "pretrained")
    assert asked[0].startswith("https://")
    head = {name for name in published if name.startswith("classifier.1.")}
    assert same(model, published) == published.keys() - head

    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no network\nat all")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(
        RequestError, match=r"^weights of 'torchvision/squeezenet1_1' cannot be downloaded \(.*\): save ht"
    ):
        build("torchvision/squeezenet1_1", 3, 10, 0, "pretrained")
