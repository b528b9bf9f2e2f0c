"""Tests of damaged and hostile files: no code of theirs is executed, and an error names the file."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pbt_bench.analysis.records.cache import read
from pbt_bench.errors import RequestError
from pbt_bench.grid_file import check_grid, load_grid
from pbt_bench.running.checkpoint import Checkpoint
from pbt_bench.running.claims import Claims, owner
from pbt_bench.running.display import plain
from pbt_bench.running.execute import Executor
from pbt_bench.running.messages import Finished
from pbt_bench.running.record import RunRecord
from pbt_bench.running.signals import StopSignal
from pbt_bench.running.slurm.view import view
from pbt_bench.running.status import summary
from pbt_bench.running.store import Store, find
from pbt_bench.spec import Axes, Grid, RunSpec

CASES = 10_000 if os.environ.get("PBT_BENCH_FAULTS") == "all" else 500
FUZZ = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), database=None)


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def checkpoint(store: Store, run_id: str) -> Checkpoint:
    return Checkpoint(store, run_id, 0.0, StopSignal(), Claims(store.folder))


def with_checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


def saved(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return with_checksum(buffer.getvalue())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "study")
    found.prepare()
    (found.folder / "checkpoints").mkdir()
    return found


def test_a_checkpoint_that_is_a_pickle_bomb_executes_nothing(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], specs: list[RunSpec]
) -> None:
    mark, run_id = tmp_path / "executed", specs[0].run_id
    path = store.checkpoint(run_id)
    for content in (with_checksum(pickle.dumps(Bomb(mark))), saved({"run_id": run_id, "training": Bomb(mark)})):
        path.write_bytes(content)
        assert checkpoint(store, run_id).load() is None
        assert not mark.exists()
        warning = capsys.readouterr().err
        assert str(path) in warning
        assert warning.count("\n") == 1
        assert "the run starts from the beginning" in warning


def test_a_run_with_a_damaged_or_foreign_checkpoint_restarts_and_ends_the_same(
    store: Store, specs: list[RunSpec], uninterrupted: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from records import result

    spec = next(spec for spec in specs if spec.method == "snip" and spec.warmup == "none")
    path = store.checkpoint(spec.run_id)
    executor = Executor(Path("nowhere"), torch.device("cpu"))
    good = checkpoint(store, spec.run_id)
    executor.execute(spec, checkpoint=good)  # saves the state after every step
    sound = path.read_bytes()
    state = torch.load(io.BytesIO(sound[32:]), weights_only=True)
    mask = next(iter(state["masks"]))
    other = {**state, "masks": {**state["masks"], mask: ~state["masks"][mask]}}
    inner = {**state, "training": {**state["training"], "stepper": {"model": {}}}}
    bad = {
        "empty": b"",
        "half": sound[: len(sound) // 2],
        "noise": os.urandom(5000),
        "one byte": sound[: len(sound) // 3] + b"\xff" + sound[len(sound) // 3 + 1 :],
        "list": saved([1, 2]),
        "other run": saved({**state, "run_id": "0" * 16}),
        "no training": saved({"run_id": spec.run_id, "phase": "train", "sessions": []}),
        "other masks": saved(other),
        "other network": saved(inner),
        "no pruning": saved({**state, "pruning": "{}"}),
        "huge": saved({"run_id": spec.run_id, "x": torch.zeros(1).expand(10**9)}),
    }
    for name, content in bad.items():
        path.write_bytes(content)
        capsys.readouterr()
        record = executor.execute(spec, checkpoint=checkpoint(store, spec.run_id)).record
        assert result(record) == uninterrupted[spec.run_id], name
        warned = capsys.readouterr().err
        assert str(path) in warned, name
        assert record.environment["sessions"] == 1
    path.write_bytes(sound)
    resumed = executor.execute(spec, checkpoint=checkpoint(store, spec.run_id)).record
    assert result(resumed) == uninterrupted[spec.run_id]
    assert resumed.environment["sessions"] == 2


def test_names_cannot_leave_the_results_folder(tmp_path: Path) -> None:
    axes = {"dataset": ["digits"], "model": ["vgg8"], "method": ["snip"], "sparsity": [0.5], "seed": [0]}
    for name in ("../x", "/etc/x", "a/b", "..", ".hidden", "", "a\0b", "a" * 200, "a\nb", "C:\\x"):
        with pytest.raises(RequestError, match="it names a folder"):
            check_grid({"name": name, "grid": axes}, "x.toml")
    for run_id in ("../x", "*", "..", "a/b", "[a-z]", "0123456789abcdef/../x"):
        with pytest.raises(RequestError, match="is not a run id"):
            find(tmp_path, run_id)


def test_a_huge_record_is_refused_quickly(
    store: Store, specs: list[RunSpec], capsys: pytest.CaptureFixture[str]
) -> None:
    path = store.path(specs[0].run_id)
    path.write_bytes(b'{"run_id": "' + b"a" * 50_000_000 + b'"}')
    assert store.records() == []
    assert str(path) in capsys.readouterr().err
    path.write_bytes(b"[" * 5_000_000)
    assert store.records() == []
    os.remove(path)
    os.mkfifo(path)  # reading a pipe would block for ever
    assert store.records() == []
    assert "not a file" in capsys.readouterr().err


def test_other_files_in_a_results_folder_stop_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Put files into the folder that pbt-bench has not written: claims, logs, submissions and records."""
    axes = Axes(dataset=("digits",), model=("vgg8",), method=("snip",), sparsity=(0.9,), seed=(0,))
    grid = Grid(name="study", grid=axes)
    first, second = (spec.run_id for spec in grid.runs())
    for folder in ("claims", "logs", "slurm/1-1-1", "slurm/2-2-2", "slurm/3-3-3", f"masks/{first}.bits", "runs/x.json"):
        (store.folder / folder).mkdir(parents=True)
    for name, content in {
        "runs/.tmp": "",
        "claims/note.txt": "",
        f"claims/{first}.old": "",
        f"claims/{first}.1.2": "",
        f"claims/{first}.1": '{"host": "',
        f"claims/{second}.1": '{"host": "\\u001b[2J", "pid": -1}',
        f"logs/{first}.log": "my warm-up epoch 1/5\n9999-99-99 99:99:99 epoch 1/2 \n",
        f"logs/{second}.log": f"2026-01-01 00:00:00 epoch 1/2 \n2026-01-01 00:00:01 epoch {'9' * 400}/2 \n",
        "slurm/1-1-1/elements.json": "{",
        "slurm/2-2-2/elements.json": f'[[["{first}"]]]',
        "slurm/2-2-2/jobs": "0\n",
        "slurm/3-3-3/elements.json": "[" * 100_000,
    }.items():
        (store.folder / name).write_text(content)
    os.mkfifo(store.path(first))  # reading a pipe would block for ever
    state = summary(grid, store)
    assert state.counts["running"] == 2, plain(state)
    assert "on an unknown host" in plain(state)
    assert "on ?[2J" in plain(state)
    assert owner(store.folder, second) is not None
    store.sweep()
    claims = Claims(store.folder)
    assert not claims.take(second)
    claims.forget(second)
    assert claims.take(second)
    claims.close()
    assert view(store.folder, [first]).jobs == {}
    warned = capsys.readouterr().err
    assert all(f"slurm/{n}-{n}-{n} is not a submission" in warned for n in (1, 2, 3)), warned


@pytest.mark.parametrize("text", ["-1", "9223372036854775808", "1e400", "1.5", '"\\ud800"', "null"])
@pytest.mark.parametrize(
    "place", ["pruning kept", "pruning layers 0 prunable", "metrics test_accuracy", "curve 0 train_accuracy"]
)
def test_a_count_or_share_that_cannot_be_is_no_record(
    store: Store, sound: bytes, specs: list[RunSpec], text: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = msgspec.json.decode(sound)
    *way, last = (int(part) if part.isdecimal() else part for part in place.split())
    inner = table
    for part in way:
        inner = inner[part]
    inner[last] = "HERE"
    store.path(specs[0].run_id).write_bytes(msgspec.json.encode(table).replace(b'"HERE"', text.encode()))
    assert read(store).num_rows == 0
    assert store.records() == []
    assert "is not a record" in capsys.readouterr().err


def test_hostile_masks_are_refused(store: Store) -> None:
    """Decompress a mask file of zeros only to the size that the record states."""
    import tracemalloc
    import zlib

    from pbt_bench.spec import Recipe

    spec = RunSpec(dataset="digits", model="vgg8", method="magnitude", sparsity=0.9, seed=0, recipe=Recipe(epochs=0))
    executor = Executor(store.folder, torch.device("cpu"))
    executed = executor.execute(spec)
    record = executed.record
    store.write(record, executed.masks)
    packed = zlib.compressobj(9)
    bomb = b"".join(packed.compress(b"\0" * 10**7) for _ in range(100)) + packed.flush()
    (store.masks / f"{record.run_id}.bits").write_bytes(bomb)
    tracemalloc.start()
    assert store.read_masks(record) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6


# -- fuzzing ---------------------------------------------------------------------------------------------------------

_leaf = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["digits", "vgg8", "snip", "all", "batch", "cosine", "erk", "none", "3 steps", 0.5, 0.99, 10**400]
    )
)
_value = st.recursive(
    _leaf,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_keys = [
    "name",
    "grid",
    "recipe",
    "scoring",
    "dense",
    *RunSpec.__struct_fields__,
    "epochs",
    "preset",
    "momentum",
    "milestones",
    "samples_per_class",
    "batchnorm",
]
_table = st.dictionaries(st.sampled_from(_keys) | st.text(max_size=8), _value, max_size=6)
_grids = st.fixed_dictionaries(
    {"name": st.sampled_from(["x"]) | _value, "grid": _table | _value},
    optional={"recipe": _table | _value, "scoring": _table | _value, "dense": _value},
)


@FUZZ
@given(table=_grids)
def test_any_table_is_a_grid_or_one_clean_line(table: dict[str, Any]) -> None:
    try:
        found: Grid | str = check_grid(table, "x.toml")
    except RequestError as error:
        found = str(error)
    assert isinstance(found, Grid) or found.startswith("x.toml")


@FUZZ
@given(text=st.text(max_size=200) | st.binary(max_size=200), override=st.text(max_size=30))
def test_any_text_is_a_grid_file_or_one_clean_line(text: str | bytes, override: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        for overrides in ((), (override,)):
            with pytest.raises(RequestError) as caught:
                load_grid(path, overrides)
            assert "x.toml" in str(caught.value) or "--set" in str(caught.value)


@pytest.fixture(scope="module")
def sound(uninterrupted: dict[str, Any], specs: list[RunSpec]) -> bytes:
    executor = Executor(Path("nowhere"), torch.device("cpu"))
    return executor.execute(specs[0]).record.to_json()


@FUZZ
@given(data=st.data())
def test_a_record_with_any_damage_is_read_or_named(data: Any, sound: bytes, specs: list[RunSpec]) -> None:
    kind = data.draw(st.sampled_from(["bytes", "cut", "value", "noise"]))
    if kind == "noise":
        content = data.draw(st.binary(max_size=300))
    elif kind == "cut":
        content = sound[: data.draw(st.integers(0, len(sound)))]
    elif kind == "bytes":
        place = data.draw(st.integers(0, len(sound) - 1))
        content = sound[:place] + data.draw(st.binary(min_size=0, max_size=4)) + sound[place + 1 :]
    else:
        plain = msgspec.json.decode(sound)
        key = data.draw(st.sampled_from(sorted(plain)))
        value = data.draw(_value.filter(lambda v: "inf" not in repr(v) and "nan" not in repr(v)))
        inner = plain[key]
        if isinstance(inner, dict) and inner and data.draw(st.booleans()):
            inner[data.draw(st.sampled_from(sorted(inner)))] = value
        else:
            plain[key] = value
        try:
            content = msgspec.json.encode(plain)
        except (OverflowError, ValueError, msgspec.MsgspecError):
            return
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.runs.mkdir()
        store.path(specs[0].run_id).write_bytes(content)
        for record in store.records():
            assert isinstance(record, RunRecord)
            assert record.run_id == record.spec.run_id == specs[0].run_id
            Finished.of(record)


def test_an_archive_that_would_write_outside_its_folder(tmp_path: Path) -> None:
    """Extract zip members with `..` in their names inside the folder, or refuse them."""
    from pbt_bench.data import datasets

    folder = tmp_path / "data"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny-imagenet-200.zip", "w") as archive:
        archive.writestr("../../escaped.txt", "out")
        archive.writestr("/tmp/pbt-bench-escaped.txt", "out")
        archive.writestr("tiny-imagenet-200/wnids.txt", "n0\n")
    with pytest.raises(RequestError, match="tiny-imagenet"):
        datasets()["tiny-imagenet"].load(folder)
    assert not (tmp_path / "escaped.txt").exists()
    assert not (tmp_path.parent / "escaped.txt").exists()
    assert not Path("/tmp/pbt-bench-escaped.txt").exists()
