"""Tests that a worker looks for a record after it has claimed a run, and writes only while it holds the claim."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pbt_bench.running import execute, worker
from pbt_bench.running.claims import Claims
from pbt_bench.running.execute import Executed
from pbt_bench.running.messages import Assignment, Claimed, Finished
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec

SPEC = RunSpec(dataset="digits", model="vgg8", method="snip", sparsity=0.9, seed=0)
RECORD = RunRecord.new(SPEC, "failed", error="x")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restore the handlers of signals that a worker installs."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(worker, "keep_freed_memory", lambda: None)
    found = Store(tmp_path / "study")
    found.prepare()
    return found


class Link:
    """A pipe with one assignment; it keeps the answers."""

    def __init__(self) -> None:
        self.jobs: list[Any] = [Assignment(SPEC.to_json(), False), None]
        self.answers: list[Any] = []

    def recv(self) -> Any:
        return self.jobs.pop(0)

    def send(self, message: Any) -> None:
        self.answers.append(message)


def served(store: Store, monkeypatch: pytest.MonkeyPatch, during: Any) -> list[Any]:
    """Return the answers of a worker that executes one run; `during` is called instead of the execution."""

    class Executor:
        def __init__(self, *_: object) -> None: ...

        def execute(self, *_: object) -> Executed:
            during()
            return Executed(RECORD)

    monkeypatch.setattr(execute, "Executor", Executor)
    link = Link()
    worker.work(link, store.folder, store.folder, "cpu", 300.0)  # type: ignore[arg-type]
    return link.answers


def test_a_run_that_was_finished_before_the_claim_is_not_repeated(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Claims.take

    def finished_by_another(claims: Claims, run_id: str) -> bool:
        store.write(RECORD)
        return take(claims, run_id)

    monkeypatch.setattr(Claims, "take", finished_by_another)
    executed: list[None] = []
    assert served(store, monkeypatch, lambda: executed.append(None)) == [Finished.of(RECORD)]
    assert executed == []


def test_a_worker_that_lost_its_claim_writes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken_over() -> None:
        (store.folder / "claims" / f"{SPEC.run_id}.2").write_text("{}")

    assert served(store, monkeypatch, taken_over) == [Claimed()]
    assert store.names() == set()


def test_a_worker_writes_what_it_executed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served(store, monkeypatch, lambda: None) == [Finished.of(RECORD)]
    assert store.names() == {SPEC.run_id}
    assert list((store.folder / "claims").iterdir()) == []
