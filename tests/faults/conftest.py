"""A small study with known records. PBT_BENCH_FAULTS=all, which `make test-faults` sets, selects more cases."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from records import result

from pbt_bench.grid_file import load_grid
from pbt_bench.running.execute import Executor
from pbt_bench.running.plan import check_names
from pbt_bench.spec import RunSpec

STUDY = """
name = "study"
[grid]
dataset = ["digits"]
model = ["vgg8"]
method = ["snip", "synflow"]
sparsity = [0.9, 0.98]
seed = [0, 1]
warmup = ["none", "3 steps"]
[recipe]
epochs = 3
batch_size = 256
augment = "crop"
crop_padding = 1
[scoring]
samples_per_class = 5
batchnorm = "calibrated"
rounds = 5
"""

Call = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def everything() -> bool:
    """Return whether all cases are tested, or only the fast ones."""
    return os.environ.get("PBT_BENCH_FAULTS") == "all"


@pytest.fixture(scope="session")
def grid_text() -> str:
    return STUDY


@pytest.fixture(scope="session")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[RunSpec]:
    path = tmp_path_factory.mktemp("grid") / "study.toml"
    path.write_text(STUDY)
    return check_names(load_grid(path), path.name).runs()


@pytest.fixture(scope="session")
def uninterrupted(specs: list[RunSpec]) -> dict[str, dict[str, Any]]:
    """Return the results of all runs of the study, each executed alone without an interruption."""
    executor = Executor(Path("nowhere"), torch.device("cpu"))
    return {spec.run_id: result(executor.execute(spec).record) for spec in specs}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Call]:
    """Start `pbt-bench WORDS` in `folder`, in a separate process group."""

    calls: list[subprocess.Popen[str]] = []

    def started(*words: str, **environment: str) -> subprocess.Popen[str]:
        path = {"PYTHONPATH": str(Path(__file__).parents[2]), "PBT_BENCH_STALE_SECONDS": "3"}
        call = subprocess.Popen(
            [sys.executable, "-m", "pbt_bench.cli", *words],
            cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env={**os.environ, **path, **environment},
        )  # fmt: skip
        calls.append(call)
        return call

    yield started
    for call in calls:  # still running after a failed test
        with contextlib.suppress(ProcessLookupError):
            os.killpg(call.pid, signal.SIGKILL)
        call.communicate()
