"""Tests that kill workers at random moments: every run gets the record of an uninterrupted run, once."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from records import result

from pbt_bench.running import claims, execute, messages, worker
from pbt_bench.running.group import Group
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec

PHASES = ("starting", "scoring", "training", "checkpoint", "masks", "record")


def _serve(link: Any, results: Path, phase: Synchronized[int]) -> None:
    """Run a worker that reports its phase, saves its state after every step, and writes slowly."""

    def during(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def told(*arguments: Any, **options: Any) -> Any:
            before, phase.value = phase.value, PHASES.index(name)
            try:
                return function(*arguments, **options)
            finally:
                phase.value = before

        return told

    put, fsync = Store.put, os.fsync

    def slow(handle: int) -> None:
        time.sleep(0.01)
        fsync(handle)

    def put_told(path: Path, content: bytes) -> None:
        name = {"checkpoints": "checkpoint", "masks": "masks", "runs": "record"}[path.parent.name]
        during(name, put)(path, content)

    os.fsync = slow  # type: ignore[assignment]
    Store.put = staticmethod(put_told)  # type: ignore[method-assign]
    claims.STALE, claims.BEAT = 0.5, 0.1
    claims.Claims.__init__.__defaults__ = (0.1, 0.5)  # type: ignore[misc]
    execute.train = during("training", execute.train)  # type: ignore[attr-defined]
    Group.mask = during("scoring", Group.mask)  # type: ignore[method-assign]
    worker.work(link, results, Path("nowhere"), "cpu", checkpoint_seconds=0.0)


def _study(folder: Path, specs: list[RunSpec], draws: random.Random, kills: int) -> Counter[str]:
    """Run all `specs` and kill the worker up to `kills` times. Return the number of kills per phase."""
    context = multiprocessing.get_context("fork")  # the child has torch already, so it starts at once
    store = Store(folder)
    store.prepare()
    phase = context.Value("i", 0)
    killed: Counter[str] = Counter()
    born: dict[str, int] = {}
    todo = list(specs)
    while todo:
        phase.value = 0
        link, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, folder, phase))
        process.start()
        theirs.close()
        end = time.monotonic() + (draws.uniform(0, 0.8) if killed.total() < kills else 600)
        for spec in list(todo):
            link.send(messages.Assignment(spec.to_json(), False))
            answer: Any = None
            while isinstance(answer, messages.Advanced | None) and link.poll(max(0, end - time.monotonic())):
                answer = link.recv()
            if isinstance(answer, messages.Claimed):
                continue  # the claim of the killed worker becomes stale soon
            if not isinstance(answer, messages.Finished):
                break
            todo.remove(spec)
        else:
            link.send(None)
            process.join()
            continue
        process.kill()
        process.join()
        killed[PHASES[phase.value]] += 1
        for record in store.records():
            inode = store.path(record.run_id).stat().st_ino
            assert born.setdefault(record.run_id, inode) == inode, "a finished run was done again"
    return killed


def test_killed_anywhere_every_record_is_that_of_an_uninterrupted_run(
    tmp_path: Path, specs: list[RunSpec], uninterrupted: dict[str, dict[str, Any]], everything: bool
) -> None:
    kills = 60 if everything else 6
    wanted = {"scoring", "training", "checkpoint"} if everything else {"checkpoint"}
    draws = random.Random(0)
    killed: Counter[str] = Counter()
    while killed.total() < kills or not (wanted <= set(killed) or killed.total() >= 5 * kills):
        store = Store(tmp_path / f"after {killed.total()}")
        killed += _study(store.folder, specs, draws, kills - killed.total() % kills)
        store.sweep()
        records = {record.run_id: record for record in store.records()}
        assert {run_id: result(record) for run_id, record in records.items()} == uninterrupted
        assert max(record.environment["sessions"] for record in records.values()) > 1, "something was resumed"
        assert [
            path.name for path in store.folder.glob("*/*") if path.parent.name not in ("runs", "masks", "logs")
        ] == []
        assert {path.stem for path in store.masks.iterdir()} == set(uninterrupted)
    print(f"killed {killed.total()} times: {dict(killed)}")
    assert wanted <= set(killed), killed
