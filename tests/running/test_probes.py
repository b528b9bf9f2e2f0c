"""Tests of the estimate of a study before any of its runs was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbt_bench.running.estimate import estimate
from pbt_bench.running.outcomes import outcomes
from pbt_bench.running.probes import PROBE, probe_runs, read_timings
from pbt_bench.running.record import Epoch, RunRecord, Status
from pbt_bench.running.store import Store
from pbt_bench.spec import Axes, Grid, Recipe, RunSpec

GRID = Grid(
    name="tiny",
    grid=Axes(dataset=("digits",), model=("vgg8", "resnet8"), method=("snip",), sparsity=(0.98, 0.9), seed=(0, 1)),
    recipe=Recipe(epochs=10),
)


def recorded(store: Store, spec: RunSpec, seconds: float, per_epoch: float, status: Status = "done") -> None:
    curve = tuple(
        Epoch(
            epoch=number + 1, train_loss=1.0, train_accuracy=0.5, validation_loss=None, validation_accuracy=None,
            learning_rate=0.1, realised_sparsity=0.9, seconds=per_epoch,
        )
        for number in range(spec.recipe.epochs)
    )  # fmt: skip
    environment = {"seconds": seconds}
    store.write(RunRecord(run_id=spec.run_id, status=status, spec=spec, curve=curve, environment=environment))


def test_a_probe_is_a_short_run_of_each_model_at_the_lowest_sparsity() -> None:
    probes = probe_runs(GRID.runs(), 2)
    assert [(p.model, p.method, p.sparsity, p.seed, p.recipe.epochs) for p in probes] == [
        ("vgg8", "snip", 0.9, 0, 2), ("vgg8", "snip", 0.9, 1, 2),
        ("resnet8", "snip", 0.9, 0, 2), ("resnet8", "snip", 0.9, 1, 2),
    ]  # fmt: skip
    assert {p.run_id for p in probes}.isdisjoint(spec.run_id for spec in GRID.runs())


def test_probes_are_extrapolated_and_measured_runs_come_first(tmp_path: Path) -> None:
    study, probes = Store(tmp_path), Store(tmp_path / PROBE)
    study.prepare()
    probes.prepare()
    specs = GRID.runs()
    by_id = {spec.run_id: spec for spec in specs}
    assert read_timings(tmp_path / "absent") == {}
    assert estimate(by_id, specs, {}, read_timings(tmp_path)).seconds is None
    first, second, *_ = probe_runs(specs, 2)
    recorded(probes, first, seconds=20, per_epoch=3)  # 14 s of start and scoring
    recorded(probes, second, seconds=30, per_epoch=3)
    found = estimate(by_id, specs, {}, read_timings(tmp_path))
    assert found.seconds == pytest.approx(len(specs) * (25 + 8 * 3)), "also for the model without a probe"
    assert found.basis == "2 probes"
    other = next(spec for spec in specs if spec.model == "resnet8")
    recorded(study, other, seconds=5, per_epoch=0.4)
    todo = [spec for spec in specs if spec != other]
    found = estimate(by_id, todo, outcomes(study, [other.run_id]), read_timings(tmp_path))
    assert found.seconds == pytest.approx(6 * 49 + 5 * 5)
    assert found.basis == "1 measured run and 2 probes"


def test_a_failed_probe_measures_nothing(tmp_path: Path) -> None:
    probes = Store(tmp_path / PROBE)
    probes.prepare()
    recorded(probes, probe_runs(GRID.runs(), 1)[0], seconds=1, per_epoch=1, status="failed")
    assert read_timings(tmp_path) == {}
