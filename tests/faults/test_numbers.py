"""Tests of invalid scores and dying workers: each run gets the right state and one reason; the grid continues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store

METHODS = """
import os, resource, signal, time
import torch
from pbt_bench.pruning import pruner

@pruner(cite="poison")
def p_nan(weight):
    "one NaN"
    scores = weight.abs()
    scores.view(-1)[0] = float("nan")
    return scores

@pruner(cite="poison")
def p_infinite(weight):
    "all infinite"
    return weight.abs() + float("inf")

@pruner(cite="poison")
def p_shape(weight):
    "wrong shape"
    return weight.abs()[:1]

@pruner(cite="poison")
def p_keys(weight):
    "not a tensor but a table"
    return {"conv1.weight": weight}

@pruner(cite="poison")
def p_integer(weight):
    "integers"
    return weight.abs().long()

@pruner(cite="poison")
def p_complex(weight):
    "complex numbers"
    return weight.to(torch.complex64)

@pruner(cite="poison")
def p_constant(weight):
    "all alike: kept by position"
    return weight * 0 + 1

@pruner(cite="poison")
def p_vandal(weight):
    "writes to the model's weights"
    scores = weight.abs()
    weight.data.fill_(float("nan"))
    return scores

@pruner(cite="poison")
def p_raise(weight):
    "raises, unless a file of this name exists"
    if os.path.exists("mended"):
        return weight
    raise LookupError("nothing\\nto be found")

@pruner(cite="poison")
def p_unsaid(weight):
    "raises what no file and no terminal takes, and a lot of it"
    raise ValueError("\\udc80\\x1b[31m" + "x" * 10_000_000)

@pruner(cite="poison")
def p_leave(weight):
    "ends Python as a worker does that was asked to stop"
    raise SystemExit(143)

@pruner(cite="poison")
def p_interrupt(weight):
    "what Ctrl-C raises, which a worker ignores"
    raise KeyboardInterrupt("no")

@pruner(cite="poison")
def p_sparse(weight):
    "not a dense tensor"
    return weight.abs().to_sparse()

@pruner(cite="poison")
def p_global(weight):
    "changes what holds for the whole process; the scores of magnitude"
    os.chdir("/")
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch._C._set_grad_enabled(False)
    torch.manual_seed(0)
    return weight.abs()

@pruner(cite="poison")
def p_stop(weight):
    "asks its worker to stop, each time anew"
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

@pruner(cite="poison")
def p_memory(weight):
    "wants more than there is"
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    return torch.ones(1 << 40)

@pruner(cite="poison")
def p_segfault(weight):
    "a segmentation fault"
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)

@pruner(cite="poison")
def p_killed(weight):
    "what the system's out-of-memory killer does"
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)

@pruner(cite="poison")
def p_exit(weight):
    "ends the process"
    os._exit(7)
"""

REASONS = {
    "p_nan": "method 'p_nan', layer 'features.0.weight': 1 of 144 scores are NaN or infinite",
    "p_infinite": "method 'p_infinite', layer 'features.0.weight': 144 of 144 scores are NaN or infinite",
    "p_shape": "method 'p_shape', layer 'features.0.weight': scores have shape [1, 1, 3, 3]",
    "p_keys": "method 'p_keys', layer 'features.0.weight': scores have dict",
    "p_integer": "method 'p_integer', layer 'features.0.weight': scores have int64, expected floating-point numbers",
    "p_complex": "method 'p_complex', layer 'features.0.weight': scores have complex64",
    "p_raise": "LookupError: nothing",
    "p_unsaid": "ValueError: ??[31mxxxxxxxxxx",
    "p_leave": "SystemExit: 143",
    "p_interrupt": "KeyboardInterrupt: no",
    "p_sparse": "method 'p_sparse', layer 'features.0.weight': scores are torch.sparse_coo on cpu",
    "p_memory": "memory",
    "p_segfault": "the worker process died: killed by signal 11",
    "p_killed": "the worker process died: killed by signal 9 (out of memory?)",
    "p_exit": "the worker process died: exit code 7",
}
SOUND = {"p_constant": "collapsed"}  # equal scores: weights are kept by position
SOUND |= dict.fromkeys(("p_vandal", "p_global", "magnitude", "snip"), "done")


def records(folder: Path) -> dict[str, RunRecord]:
    return {record.spec.method: record for record in Store(folder / "results/study").records()}


@pytest.fixture
def poisoned(folder: Path) -> Path:
    (folder / "methods").mkdir()
    (folder / "methods" / "poison.py").write_text(METHODS)
    return folder


def test_poisoned_methods_and_dying_workers(poisoned: Path, start: Any, everything: bool) -> None:
    reasons = REASONS | (
        {"p_stop": "it was asked to stop 5 times"} if everything else {}
    )  # starting five workers takes time
    names = [*reasons, *SOUND]
    methods = ("--set", f"grid.method={json.dumps(names)}", "--set", "recipe.epochs=1", "--set", "grid.seed=[0]")
    one = (*methods, "--set", "grid.sparsity=[0.9]", "--set", "grid.warmup=['none']", "--set", "dense=false")
    call = start("run", "study.toml", "--workers", "1", *one, PBT_BENCH_METHODS="methods")
    _, err = call.communicate(timeout=300)
    assert call.returncode == 1, err
    found = records(poisoned)
    assert {name: record.status for name, record in found.items()} == {
        **dict.fromkeys(reasons, "failed"),
        **SOUND,
    }
    for name, reason in reasons.items():
        line = found[name].error_line
        assert line is not None
        assert reason in line, name
        assert "\n" not in line
        assert any(line in printed for printed in err.splitlines()), "said while it runs"
    shown, _ = start("status", "study.toml", *one, PBT_BENCH_METHODS="methods").communicate(timeout=60)
    for name, reason in reasons.items():
        assert any(name in line and reason in line for line in shown.splitlines()), shown
    assert f"{len(reasons)} failed" in shown
    for name in SOUND:
        pruning = found[name].pruning
        assert pruning is not None
        assert pruning.realised_sparsity == pruning.sparsity == pytest.approx(0.9, abs=1e-4)
    assert found["p_vandal"].metrics is not None
    assert found["p_vandal"].metrics.test_loss is not None, "the model that is trained was not touched"
    same = [found[name].metrics.weights_digest for name in ("p_global", "magnitude")]  # type: ignore[union-attr]
    assert same[0] == same[1], "what a method changed for the whole process outlived its scores"
    assert max(path.stat().st_size for path in (poisoned / "results/study/runs").iterdir()) < 100_000
    assert list((poisoned / "results/study/claims").glob("*")) == []


MODEL = """
import torch
from pbt_bench.models import model

@model(cite="poison")
def nan_net(channels, classes):
    "infinite answers, so the loss is NaN"
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(channels, 4, 3)
            self.fc = torch.nn.Linear(4, classes)
            torch.nn.init.constant_(self.fc.weight, 3e38)
        def forward(self, x):
            return self.fc(self.conv(x).mean((2, 3)))
    return Net()
"""


def test_a_diverging_learning_rate_and_answers_that_are_nan(folder: Path, start: Any) -> None:
    one: tuple[str, ...] = (
        "--set",
        "grid.method=['magnitude']",
        "--set",
        "grid.seed=[0]",
        "--set",
        "grid.sparsity=[0.2]",
    )
    (folder / "models").mkdir()
    (folder / "models" / "nan.py").write_text(MODEL)
    wild = (
        "--set",
        "recipe.learning_rate=1e30",
        "--set",
        "grid.warmup=['none']",
        "--set",
        "recipe.schedule='constant'",
    )
    two = ("--set", "grid.model=['vgg8', 'nan_net']")
    call = start("run", "study.toml", "--workers", "1", *one, *wild, *two, PBT_BENCH_MODELS="models")
    out, err = call.communicate(timeout=120)
    assert call.returncode == 0, err
    assert "4 diverged" in out
    for record in Store(folder / "results/study").records():
        assert record.metrics is not None
        assert record.pruning is not None
        assert record.metrics.test_loss is None
        assert record.metrics.test_accuracy == pytest.approx(record.metrics.chance_accuracy, abs=0.05)
        assert record.pruning.realised_sparsity == record.pruning.sparsity


def test_a_run_that_failed_is_tried_again_on_request_only(poisoned: Path, start: Any) -> None:
    one: tuple[str, ...] = (
        "--set",
        "grid.method=['p_raise', 'snip']",
        "--set",
        "recipe.epochs=1",
        "--set",
        "grid.seed=[0]",
    )
    one = (*one, "--set", "grid.sparsity=[0.9]", "--set", "grid.warmup=['none']", "--set", "dense=false")
    first = start("run", "study.toml", "--workers", "1", *one, PBT_BENCH_METHODS="methods")
    first.communicate(timeout=120)
    assert first.returncode == 1
    before = {path: path.stat().st_ino for path in (poisoned / "results/study/runs").glob("*.json")}
    again = start("run", "study.toml", *one, PBT_BENCH_METHODS="methods")
    again.communicate(timeout=120)
    assert again.returncode == 1
    assert before == {path: path.stat().st_ino for path in before}
    (poisoned / "mended").touch()  # an edit of the file would make other runs
    last = start("run", "study.toml", "--workers", "1", "--retry-failed", *one, PBT_BENCH_METHODS="methods")
    _, err = last.communicate(timeout=120)
    assert last.returncode == 0, err
    assert {record.status for record in records(poisoned).values()} == {"done"}
    assert sum(before[path] == path.stat().st_ino for path in before) == 1, "the sound run was not touched"
