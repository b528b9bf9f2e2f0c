"""Tests that run on a CPU, and also on a GPU if available."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from savers import SaveAll
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import pbt_bench
from pbt_bench.data import datasets
from pbt_bench.data.run_data import Data, prepare
from pbt_bench.models import build
from pbt_bench.models.prunable import Masks, prunable
from pbt_bench.running.execute import Executor
from pbt_bench.sparse import compact_network
from pbt_bench.spec import Recipe, RunSpec, Scoring
from pbt_bench.training.loop import train
from pbt_bench.training.stepper import Stepper

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
CUDA = pytest.param("cuda", marks=NO_GPU)
METHODS = ("random", "magnitude", "snip", "grasp", "fts", "synflow", "force", "hts")


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def data(device: torch.device, tmp_path: Path) -> Data:
    return prepare(datasets()["digits"].load(tmp_path), 0.15, 0, device)


def sparse_network(device: torch.device) -> tuple[nn.Module, Masks]:
    """Return a network with dropout, and masks that keep a tenth of its weights and leave many channels dead."""
    model = build("vgg8", 1, 10, seed=0)
    model.classifier = nn.Sequential(nn.Dropout(0.3), model.classifier)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    masks = {name: torch.rand(p.shape, generator=generator) > 0.8 for name, p in prunable(model).items()}
    for mask in masks.values():
        mask[::2] = False
    masks["classifier.1.weight"][:] = True
    return model.to(device), {name: mask.to(device) for name, mask in masks.items()}


class Waits(TorchDispatchMode):
    """Counter of operations whose result the host must wait for."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "repeat_interleave")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in self.NAMES or (name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])):
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


@contextmanager
def no_waiting(device: torch.device) -> Iterator[Waits]:
    """Count operations that make the host wait. On CUDA they also raise an error."""

    def waiting_is(mode: str) -> None:
        if device.type == "cuda":
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # once: "a prototype feature"
                torch.cuda.set_sync_debug_mode(mode)

    try:
        waiting_is("error")
        with Waits() as waits:
            yield waits
    finally:
        waiting_is("default")


def test_the_counter_sees_what_waits(device: torch.device) -> None:
    x = torch.ones(3, device=device)
    with Waits() as waits:
        x[x > 0].sum().item()
    assert waits.seen == ["index", "_local_scalar_dense"]


@pytest.mark.parametrize("execution", ["dense", "compact"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("device", "optimizer"),
    [("cpu", "sgd"), pytest.param("cuda", "sgd", marks=NO_GPU), pytest.param("cuda", "adamw", marks=NO_GPU)],
    indirect=["device"],
)  # on a CPU, AdamW reads its count of steps
def test_no_step_waits_for_the_device(
    data: Data, device: torch.device, execution: str, precision: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check all steps after the first, which may wait because it reads the masks."""
    monkeypatch.setattr(compact_network, "_known_zero", lambda *_: False)  # as on a GPU
    numbers = {"momentum": 0.9} if optimizer == "sgd" else {}
    recipe = Recipe(
        batch_size=128,
        optimizer=optimizer,
        precision=precision,
        execution=execution,
        augment="crop-flip",
        crop_padding=1,
        **numbers,  # type: ignore[arg-type]
    )
    model, masks = sparse_network(device)
    stepper = Stepper(model, masks, data, recipe, 0, "train")
    assert isinstance(stepper.execution, compact_network.Compact) == (execution == "compact")
    seen: list[list[str]] = []
    with ExitStack() as watched:

        def watch_next_step() -> None:
            watched.close()
            if len(seen) < 5:
                seen.append(watched.enter_context(no_waiting(device)).seen)

        stepper.epoch(1, 6, watch_next_step)
    assert seen == [[]] * 5


@NO_GPU
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_scores_and_masks_as_a_cpu(method: str) -> None:
    model = build("resnet8", 1, 10, seed=0)
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(20, 1, 8, 8, generator=generator), torch.arange(20) % 10)]
    on_gpu = [(x.cuda(), y.cuda()) for x, y in batches]

    def options() -> dict[str, Any]:
        return {"method": method, "batchnorm": "calibrated", "generator": torch.Generator().manual_seed(0)}

    here = pbt_bench.score(model, batches, **options())
    there = pbt_bench.score(copy.deepcopy(model).cuda(), on_gpu, **options())
    for name, score in here.items():
        torch.testing.assert_close(there[name].cpu(), score, rtol=1e-3, atol=1e-4 * float(score.abs().max()))
    masks = pbt_bench.prune(model, batches, sparsity=0.9, **options())
    others = pbt_bench.prune(copy.deepcopy(model).cuda(), on_gpu, sparsity=0.9, **options())
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert sum(int(mask.sum()) for mask in others.values()) == kept
    assert sum(int((masks[name] & others[name].cpu()).sum()) for name in masks) >= 0.99 * kept


def test_what_is_left_trains_as_the_masked_network(data: Data, device: torch.device) -> None:
    """Train ten steps in float64 without dropout."""
    found = []
    for how in ("dense", "compact"):
        model, masks = sparse_network(device)
        model.classifier[0].p = 0.0  # type: ignore[index, union-attr, assignment]
        model.double()
        double = Data(**(vars(data) | {"mean": data.mean.double(), "std": data.std.double()}))
        stepper = Stepper(model, masks, double, Recipe(batch_size=128, execution=how), 0, "train")
        assert isinstance(stepper.execution, compact_network.Compact) == (how == "compact")
        stepper.epoch(1, 10)
        found.append(model.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_saved_state_continues_to_the_same_bits(
    data: Data, device: torch.device, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # as in a run
    recipe = Recipe(epochs=2, batch_size=256, augment="crop", crop_padding=1, precision=precision)
    saver = SaveAll()
    model, masks = sparse_network(device)
    train(model, masks, data, recipe, 0, saver=saver)
    for state in saver.states[:: len(saver.states) // 3]:
        again, masks = sparse_network(device)
        train(again, masks, data, recipe, 0, state=state)
        for name, value in model.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("method", ["dense", "snip", "synflow"])
def test_a_run_from_data_to_record(device: torch.device, tmp_path: Path, method: str) -> None:
    spec = RunSpec(
        dataset="digits",
        model="resnet8",
        method=method,
        sparsity=0.0 if method == "dense" else 0.9,
        seed=0,
        recipe=Recipe(epochs=2, batch_size=64),
        scoring=Scoring(batchnorm="calibrated", rounds=10),
    )
    record = Executor(tmp_path, device).execute(spec).record
    assert record.status == "done", record.error
    assert record.metrics is not None
    assert record.metrics.test_accuracy > 0.2
    realised = [epoch.realised_sparsity for epoch in record.curve]
    assert all(value == pytest.approx(spec.sparsity, abs=1e-4) for value in realised)
