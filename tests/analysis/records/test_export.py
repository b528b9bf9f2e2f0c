"""Tests of exports. Stubs replace tensorboard and wandb, which are optional."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pbt_bench.analysis.records.export import finished_records, write_csv, write_tensorboard, write_wandb
from pbt_bench.cli import main
from pbt_bench.errors import RequestError
from pbt_bench.grid_file import load_grid
from pbt_bench.running.execute import Executor
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store

GRID = """
name = "small"
[grid]
dataset = ["digits"]
model = ["vgg8"]
method = ["random", "magnitude"]
sparsity = [0.5]
seed = [0]
[recipe]
epochs = 1
schedule = "multistep"
milestones = [1]
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a grid of which the dense run is done, one run has failed and one is missing."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "small.toml").write_text(GRID)
    (folder / "results").mkdir()
    store = Store(folder / "results" / "small")
    store.prepare()
    dense, first, _ = load_grid(folder / "small.toml").runs()
    done = Executor(folder, torch.device("cpu")).execute(dense)
    assert done.record.error is None
    store.write(done.record, done.masks)
    store.write(RunRecord.new(first, "failed", error="x"))
    return folder


@pytest.fixture
def records(study: Path) -> list[RunRecord]:
    return finished_records(load_grid(study / "small.toml").runs(), Store(study / "results" / "small"))


def test_csv_has_a_line_per_finished_run_and_one_per_epoch(
    study: Path, records: list[RunRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "runs.csv"
    words = ["export", str(study / "small.toml"), "--results", str(study / "results"), "--csv", str(file)]
    assert main(words) == 0
    assert capsys.readouterr().out == f"small: 1 finished run\ncsv: {file} and {tmp_path / 'runs_curves.csv'}\n"
    with file.open() as opened:
        (row,) = csv.DictReader(opened)
    with (tmp_path / "runs_curves.csv").open() as opened:
        (epoch,) = csv.DictReader(opened)
    (record,) = records
    assert record.metrics
    assert row["run_id"] == epoch["run_id"] == record.run_id
    assert float(row["metrics.test_accuracy"]) == record.metrics.test_accuracy
    assert row["spec.recipe.milestones"] == "[1]"
    assert row["spec.recipe.epochs"] == "1"
    assert float(epoch["train_loss"]) == record.curve[0].train_loss
    assert write_csv([], file) == tmp_path / "runs_curves.csv"
    with pytest.raises(RequestError, match=r"absent/runs.csv: cannot be written: No such file or directory$"):
        write_csv(records, tmp_path / "absent" / "runs.csv")


def test_an_export_needs_a_target(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(study / "small.toml")]) == 2
    assert "give at least one of --csv FILE, --tensorboard DIR, --wandb DIR" in capsys.readouterr().err


def test_tensorboard_gets_curves_settings_and_results_once(
    records: list[RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scalars: list[tuple[str, float, int]] = []
    results: list[dict[str, Any]] = []

    class SummaryWriter:
        def __init__(self, path: str) -> None:
            Path(path).mkdir(parents=True)

        def __enter__(self) -> SummaryWriter:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def add_scalar(self, *values: Any) -> None:
            scalars.append(values)

        def add_hparams(self, settings: dict[str, Any], metrics: dict[str, Any], run_name: str) -> None:
            assert all(type(value) in (bool, int, float, str) for value in settings.values())
            results.append(settings | metrics)

        def add_image(self, name: str, image: Any, dataformats: str) -> None:
            assert (image.shape[-1], dataformats) == (4, "HWC")
            scalars.append((name, 0.0, 0))

    stub = ModuleType("stub")
    stub.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stub)
    (record,) = records
    assert write_tensorboard(records, tmp_path) == 1
    assert write_tensorboard(records, tmp_path) == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"digits_vgg8_dense_seed_0_{record.run_id}"]
    assert ("train_loss", record.curve[0].train_loss, 1) in scalars
    assert record.metrics
    assert results[0]["metrics.test_accuracy"] == record.metrics.test_accuracy
    assert results[0]["recipe.epochs"] == 1
    assert write_tensorboard(records, tmp_path, {"accuracy": np.zeros((2, 3, 4), np.uint8)}) == 0
    assert scalars[-1][0] == "accuracy"
    assert (tmp_path / "figures").is_dir()


def test_wandb_gets_an_offline_run_per_record(
    records: list[RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Any]] = []
    logged: list[tuple[int, dict[str, float]]] = []
    summary: dict[str, Any] = {}

    def init(**options: Any) -> SimpleNamespace:
        begun.append(options)
        log = lambda values, step=0: logged.append((step, values))  # noqa: E731
        return SimpleNamespace(log=log, summary=summary, finish=lambda: None)

    stub = ModuleType("wandb")
    stub.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", stub)
    (record,) = records
    assert write_wandb(records, tmp_path / "runs", "small") == 1
    assert begun[0] | {"mode": "offline", "project": "small", "id": record.run_id} == begun[0]
    assert begun[0]["config"]["recipe.learning_rate"] == 0.1
    assert [(step, values["train_loss"]) for step, values in logged] == [(1, record.curve[0].train_loss)]
    assert summary["status"] == "done"
    assert summary["pruning.sparsity"] == 0.0
    stub.Image = lambda image: image.shape  # type: ignore[attr-defined]
    write_wandb([], tmp_path / "runs", "small", {"accuracy": np.zeros((2, 3, 4), np.uint8)})
    assert (begun[-1]["name"], logged[-1]) == ("figures", (0, {"accuracy": (2, 3, 4)}))


@pytest.mark.parametrize(("write", "module"), [(write_tensorboard, "tensorboard"), (write_wandb, "wandb")])
def test_a_missing_package_is_one_line(
    write: Any, module: str, records: list[RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard"}.get(module, module), None)
    with pytest.raises(RequestError, match=rf"^this export needs the package {module}: pip install {module}$"):
        write(records, tmp_path, *(["small"] if module == "wandb" else []))
