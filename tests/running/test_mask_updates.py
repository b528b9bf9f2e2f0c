"""Runs whose masks change during training: records, audits, and runs that are interrupted and continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from savers import SaveAll

from pbt_bench.pruning.masks import pruned_count
from pbt_bench.running.audit import audit
from pbt_bench.running.execute import Executor
from pbt_bench.running.group import mask_updates
from pbt_bench.running.record import numbers
from pbt_bench.running.store import Store
from pbt_bench.spec import Recipe, RunSpec

RECIPE = Recipe(epochs=2, batch_size=256, learning_rate=0.05)
BASE = RunSpec(dataset="digits", model="resnet8", method="rigl", sparsity=0.95, seed=1, recipe=RECIPE)
SPECS = {
    "rigl": msgspec.structs.replace(BASE, options={"interval": 2}),
    "set": msgspec.structs.replace(BASE, method="set", options={"interval": 2}),
    "gmp": msgspec.structs.replace(BASE, method="gmp", options={"interval": 2}),
    "axis": msgspec.structs.replace(
        BASE, method="snip", mask_updates="rigl", update_options={"interval": 2}, scope="igq"
    ),
}


class Kept:
    """A checkpoint in memory, which keeps every state that a run saves."""

    sessions = (0.0,)
    earlier = ()

    def __init__(self, state: Any = None) -> None:
        self.states: list[Any] = []
        self._state = state

    def load(self) -> Any:
        return self._state

    def saving(self, **phase: Any) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def opened() -> Any:
            saver = SaveAll()
            yield saver
            self.states += [{**phase, "training": state} for state in saver.states]

        return opened()


def executor() -> Executor:
    return Executor(Path("data"), torch.device("cpu"))


@pytest.mark.parametrize("name", SPECS)
def test_an_interrupted_run_has_the_record_of_an_uninterrupted_one(name: str) -> None:
    spec, checkpoint = SPECS[name], Kept()
    whole = executor().execute(spec, checkpoint=checkpoint)  # type: ignore[arg-type]
    record = whole.record
    assert record.status == "done", record.error
    assert record.pruning is not None
    assert record.pruning.prunable - record.pruning.kept == pruned_count(0.95, record.pruning.prunable)
    assert record.pruning.initial_mask_digest not in (None, record.pruning.mask_digest)
    assert record.pruning.notes["mask_updates"]["updates"] >= 2
    trained = [state for state in checkpoint.states if state["phase"] == "train"]
    for state in trained[:: len(trained) // 4]:
        again = executor().execute(spec, checkpoint=Kept(state))  # type: ignore[arg-type]
        assert numbers(again.record) == numbers(record)
        assert whole.masks is not None
        assert again.masks is not None
        assert all((mask == again.masks[key]).all() for key, mask in whole.masks.items())


def test_an_audit_recomputes_the_masks_before_the_training(tmp_path: Path) -> None:
    store, spec = Store(tmp_path), SPECS["axis"]
    done = executor().execute(spec)
    assert done.masks is not None
    store.write(done.record, done.masks)
    found = audit("study", [spec], store, Path("data"), "cpu", 1, retrain=False)
    assert (found.records, found.recomputed, found.faults) == (1, 1, ())
    assert done.record.pruning is not None
    other = msgspec.structs.replace(done.record.pruning, initial_mask_digest="0" * 64)
    store.write(msgspec.structs.replace(done.record, pruning=other), done.masks)
    [(_, fault)] = audit("study", [spec], store, Path("data"), "cpu", 1, retrain=False).faults
    assert "initial_mask_digest" in fault


def test_a_network_that_starts_disconnected_is_trained_and_judged_by_its_final_masks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"interval": 1, "drop_fraction": 0.9}
    static = RunSpec(dataset="digits", model="vgg8", method="magnitude", sparsity=0.995, seed=1, recipe=RECIPE)
    spec = msgspec.structs.replace(static, mask_updates="set", update_options=options)
    assert executor().execute(static).record.status == "collapsed"
    record = executor().execute(spec).record
    assert len(record.curve) == 2
    assert record.pruning is not None
    assert record.status == ("collapsed" if record.pruning.effective_sparsity == 1 else "done")


def test_options_of_a_method_reach_its_mask_updates() -> None:
    found = mask_updates(SPECS["gmp"])
    assert found is not None
    assert found.schedule.interval == 2
    assert mask_updates(msgspec.structs.replace(BASE, method="dense", sparsity=0.0, options={})) is None
