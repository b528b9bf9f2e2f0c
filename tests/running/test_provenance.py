"""Tests that a record names the code, the machine and the data of every session that made it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from pbt_bench.data import load
from pbt_bench.data.image_tensors import Images
from pbt_bench.data.images import from_folders
from pbt_bench.running import execute, source
from pbt_bench.running.audit import audit
from pbt_bench.running.checkpoint import Checkpoint
from pbt_bench.running.claims import Claims
from pbt_bench.running.environment import describe, processor_model
from pbt_bench.running.execute import Executor
from pbt_bench.running.signals import StopSignal
from pbt_bench.running.source import code_state
from pbt_bench.running.store import Store
from pbt_bench.spec import Recipe, RunSpec

ROOT = Path(__file__).parents[2]
SPEC = RunSpec(
    dataset="digits", model="vgg8", method="magnitude", sparsity=0.9, seed=0, recipe=Recipe(epochs=1, batch_size=256)
)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a clone that takes the place of the project's."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods/a.py").write_text("a")
    monkeypatch.setattr(source, "_ROOT", tmp_path)
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    code_state.cache_clear()
    yield tmp_path
    code_state.cache_clear()


def git(folder: Path, *words: str) -> str:
    name = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    return subprocess.run(["git", "-C", folder, *name, *words], check=True, capture_output=True, text=True).stdout


def commit(folder: Path) -> str:
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "c")
    return git(folder, "rev-parse", "HEAD").strip()


def test_commit_and_state_are_those_of_the_start_of_the_process(clone: Path) -> None:
    first = code_state()
    assert first == {"commit": git(clone, "rev-parse", "HEAD").strip(), "dirty": False}
    (clone / "methods/a.py").write_text("b")
    commit(clone)
    (clone / "methods/a.py").write_text("c")
    assert code_state() == first


def test_untracked_code_counts_as_uncommitted_and_other_files_do_not(clone: Path) -> None:
    (clone / "note.txt").write_text("")
    assert code_state()["dirty"] is False
    code_state.cache_clear()
    (clone / "methods/new.py").write_text("")
    assert code_state()["dirty"] is True


def continued(folder: Path, monkeypatch: pytest.MonkeyPatch, **other: Any) -> tuple[Store, execute.Executed]:
    """Execute a run in two sessions, the second with `other` values in its environment."""
    store = Store(folder)
    store.prepare()

    def checkpoint() -> Checkpoint:
        return Checkpoint(store, SPEC.run_id, 0.0, StopSignal(), Claims(folder))

    executor = Executor(folder, torch.device("cpu"))
    executor.execute(SPEC, checkpoint=checkpoint())  # its last state is kept
    monkeypatch.setattr(execute, "describe", lambda device: describe(device) | other)
    executed = executor.execute(SPEC, checkpoint=checkpoint())
    store.write(executed.record, executed.masks)
    return store, executed


def test_a_run_continued_on_another_machine_or_by_other_code_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, executed = continued(tmp_path, monkeypatch, processor="AVX9", commit="other")
    environment = executed.record.environment
    assert environment["mixed"] == ["commit", "processor"]
    (earlier,) = environment["earlier_sessions"]
    assert {name: earlier[name] for name in describe(torch.device("cpu"))} == describe(torch.device("cpu"))
    assert 0 < earlier["seconds"] <= environment["seconds"]
    found = audit("study", [SPEC], store, tmp_path, "cpu", 0, False)
    assert "1 record continued by other code or on another kind of processor" in found.text()
    assert not found.faults


def test_a_run_continued_where_it_began_is_not_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, executed = continued(tmp_path, monkeypatch, host="other", pid=1)
    assert executed.record.environment["sessions"] == 2
    assert len(executed.record.environment["earlier_sessions"]) == 1
    assert "mixed" not in executed.record.environment


def test_a_state_without_an_environment_is_of_unknown_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def save_as_earlier_version(state: Any, *words: Any) -> None:
        save({name: value for name, value in state.items() if name != "environments"}, *words)

    monkeypatch.setattr(torch, "save", save_as_earlier_version)
    _, executed = continued(tmp_path, monkeypatch)
    assert "commit" in executed.record.environment["mixed"]


def test_the_processor_has_a_name() -> None:
    model = processor_model()
    assert describe(torch.device("cpu"))["processor_model"] == model
    if "model name" in Path("/proc/cpuinfo").read_text():
        assert model


def test_a_record_has_a_digest_of_its_data(tmp_path: Path) -> None:
    digits = load("digits", tmp_path)
    assert digits.digest == load("digits", tmp_path).digest
    assert isinstance(digits.test, Images)
    pixels, targets = digits.test.pixels.clone(), digits.test.targets.clone()
    pixels[0, 0, 0, 0] += 1
    targets[0] += 1
    for images in (Images(pixels, digits.test.targets), Images(digits.test.pixels, targets)):
        assert replace(digits, test=images).digest != digits.digest
    store = Store(tmp_path)
    store.prepare()
    executed = Executor(tmp_path, torch.device("cpu")).execute(SPEC)
    assert executed.record.data_digest == digits.digest
    store.write(msgspec.structs.replace(executed.record, data_digest="0" * 16), executed.masks)
    ((_, fault),) = audit("study", [SPEC], store, tmp_path, "cpu", 0, False).faults
    assert fault == f"its dataset has the digest {'0' * 16}, but the one here {digits.digest}"


def test_image_files_are_told_apart_by_names_and_sizes(tmp_path: Path) -> None:
    from PIL import Image

    for part in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / part / label / "1.png")

    def digest() -> str:
        return from_folders(tmp_path / "train", tmp_path / "test", 8, (0.5,) * 3, (0.5,) * 3).digest

    first = digest()
    assert digest() == first
    (tmp_path / "test/b/1.png").write_bytes(b"x")
    second = digest()
    (tmp_path / "test/b/1.png").rename(tmp_path / "test/b/2.png")
    assert len({first, second, digest()}) == 3


def test_the_reference_study_is_of_one_clean_commit() -> None:
    records = Store(ROOT / "results/fts_table1_mini").records()
    assert len(records) == 138
    assert {record.environment["dirty"] for record in records} == {False}
    assert len({record.environment["commit"] for record in records}) == 1
