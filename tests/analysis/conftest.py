"""Fake but plausible records: accuracy falls with sparsity, magnitude empties its late layers, seeds scatter."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pbt_bench.running.record import Epoch, Layer, MaskMetrics, Metrics, Pruning, RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import DENSE, Axes, Grid, RunSpec

SIZES = (432, 4608, 9216, 18432, 36864, 73728, 640)
STRENGTH = {DENSE: 1.0, "random": 0.5, "magnitude": 0.6, "snip": 0.9, "grasp": 0.7, "synflow": 0.95, "fts": 0.92}


def make_grid(**changes: Any) -> Grid:
    """A small study; `changes` replace axes."""
    axes: dict[str, Any] = {
        "dataset": ("digits",),
        "model": ("resnet8", "vgg8"),
        "method": ("random", "magnitude", "snip", "grasp", "synflow", "fts"),
        "sparsity": (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995),
        "seed": (0, 42, 123),
    }
    return Grid(name="demo", grid=Axes(**(axes | changes)))


def make_record(spec: RunSpec, status: str = "done", accuracy: float | None = None, **changes: Any) -> RunRecord:
    """The record of `spec`; `accuracy` overrides the made-up one, `changes` replace fields of the record."""
    if status == "failed":
        error = "Traceback (most recent call last):\n  File 'x.py'\nScoreError: fts: conv1.weight has a NaN score"
        return RunRecord(run_id=spec.run_id, status="failed", spec=spec, **({"error": error} | changes))
    noise = random.Random(spec.run_id)
    strength = STRENGTH.get(spec.method, 0.8)
    density = 1 - spec.sparsity
    if accuracy is None:
        fall = 0.02 + 0.6 * (1 - strength)
        accuracy = max(0.1, 0.97 - fall * math.log10(1 / density) ** 2 / 2 + noise.gauss(0, 0.006))
    prunable = sum(SIZES)
    kept = prunable - math.floor(spec.sparsity * prunable + 1e-9)
    tilt = 0.0 if spec.method in (DENSE, "random") else 1.6 * (1 - strength)
    weights = [size * math.exp(-tilt * depth * math.log10(1 / density)) for depth, size in enumerate(SIZES)]
    layers = []
    for depth, (size, weight) in enumerate(zip(SIZES, weights, strict=True)):
        own = min(size, int(kept * weight / sum(weights) + noise.random()))
        layers.append(
            Layer(
                name=f"stages.{depth}.conv.weight",
                shape=(size,),
                prunable=size,
                kept=own,
                zero_scores=size // 50,
                live_units=size // 72,
                ramanujan_gap=density if own > size // 20 else None,
            )
        )
    collapsed_layers = sum(layer.kept == 0 for layer in layers)
    metrics = Metrics(
        test_accuracy=accuracy,
        test_loss=1 - accuracy,
        validation_accuracy=accuracy,
        validation_loss=1 - accuracy,
        train_loss=0.5 * (1 - accuracy),
        best_validation_epoch=12,
        test_accuracy_at_best_validation=accuracy,
        chance_accuracy=0.1,
        weights_digest="0" * 64,
    )
    pruning = Pruning(
        prunable=prunable,
        kept=kept,
        sparsity=1 - kept / prunable,
        realised_sparsity=1 - kept / prunable,
        effective_sparsity=1 - 0.98 * kept / prunable,
        zero_score_share=0.0 if spec.method == "random" else 0.02,
        collapsed_layers=collapsed_layers,
        flops_dense=2_000_000,
        flops_sparse=int(2_000_000 * density),
        scoring_seconds=0.1,
        layers=tuple(layers),
        rounds=1,
        mask_digest="0" * 64,
        mask_metrics=MaskMetrics(
            live_unit_share=1 - spec.sparsity**20 / 2,
            log10_paths=12 + 4 * math.log10(density) + strength,
            ramanujan_gap=3 * density**0.5 if density > 0.01 else None,
            gradient_norm=strength + noise.random(),
            ntk_trace=2000 * strength * density**0.5,
        ),
    )
    curve = tuple(
        Epoch(
            epoch=epoch,
            train_loss=2 / epoch,
            train_accuracy=accuracy * epoch / 15,
            validation_loss=2 / epoch,
            validation_accuracy=accuracy * epoch / 15,
            learning_rate=0.1 / epoch,
            realised_sparsity=pruning.realised_sparsity,
            seconds=0.5,
        )
        for epoch in range(1, 16)
    )
    environment = {"versions": {"torch": "2.14.1", "python": "3.11.7"}, "device": "cpu", "commit": "abc", "host": "n1"}
    fields: dict[str, Any] = {"metrics": metrics, "pruning": pruning, "curve": curve, "environment": environment}
    return RunRecord(run_id=spec.run_id, status=status, spec=spec, **(fields | changes))  # type: ignore[arg-type]


def write(folder: Path, records: Sequence[RunRecord]) -> Store:
    """A store that holds `records`."""
    store = Store(folder)
    store.prepare()
    for record in records:
        store.path(record.run_id).write_bytes(record.to_json())
    return store


@pytest.fixture(scope="session")
def grid() -> Callable[..., Grid]:
    return make_grid


@pytest.fixture(scope="session")
def record() -> Callable[..., RunRecord]:
    return make_record


@pytest.fixture(scope="session")
def stored() -> Callable[[Path, Sequence[RunRecord]], Store]:
    return write
