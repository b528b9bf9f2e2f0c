"""The cache saves reading, and never says anything that the records do not."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pbt_bench.analysis.records.cache import cache_path, read
from pbt_bench.analysis.records.columns import decode, encode
from pbt_bench.analysis.records.data_frame import frame, load_results, study_frame
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import Grid, RunSpec


@pytest.fixture
def specs(grid: Callable[..., Grid]) -> list[RunSpec]:
    return grid(model=("vgg8",), method=("snip", "fts"), sparsity=(0.9, 0.98)).runs()


@pytest.fixture
def store(
    tmp_path: Path,
    specs: list[RunSpec],
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> Store:
    return stored(tmp_path / "study", [record(spec) for spec in specs[:-1]])


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the records that are read, as they are."""
    seen: list[str] = []
    real = Store.read

    def read(self: Store, run_id: str) -> RunRecord | None:
        seen.append(run_id)
        return real(self, run_id)

    monkeypatch.setattr(Store, "read", read)
    return seen


def same(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    return bool(a.to_json() == b.to_json()) and all(
        list(a[name]) == list(b[name]) for name in ("recipe", "scoring", "layers", "curve", "environment", "notes")
    )


def test_the_second_time_no_record_is_read(store: Store, reads: list[str]) -> None:
    first = load_results(store.folder)
    assert len(reads) == len(first)
    reads.clear()
    second = load_results(store.folder)
    assert reads == []
    assert same(first, second)
    assert list(first.dtypes) == list(second.dtypes)


def test_a_new_run_is_the_only_one_that_is_read(
    store: Store, specs: list[RunSpec], record: Callable[..., RunRecord], reads: list[str]
) -> None:
    study_frame(specs, store)
    reads.clear()
    store.write(record(specs[-1]))
    table = study_frame(specs, store)
    assert reads == [specs[-1].run_id]
    assert set(table["status"]) == {"done"}
    assert list(table["run_id"]) == [spec.run_id for spec in specs]


def test_a_record_that_changed_is_read_again_whatever_its_time_says(
    store: Store, specs: list[RunSpec], record: Callable[..., RunRecord], reads: list[str]
) -> None:
    load_results(store.folder)
    path = store.path(specs[1].run_id)
    before, content = path.stat(), path.read_bytes()
    changed = msgspec.json.decode(content)
    assert b'"status": "done"' in content
    path.write_bytes(content.replace(b'"best_validation_epoch": 12', b'"best_validation_epoch": 11'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    reads.clear()
    table = load_results(store.folder).set_index("run_id")
    assert reads == [specs[1].run_id]
    assert changed["metrics"]["best_validation_epoch"] == 12
    assert table.loc[specs[1].run_id, "best_validation_epoch"] == 11


def test_a_record_that_is_gone_is_gone(store: Store, specs: list[RunSpec]) -> None:
    study_frame(specs, store)
    store.path(specs[1].run_id).unlink()
    assert list(study_frame(specs, store)["status"][:3]) == ["done", "missing", "done"]
    assert specs[1].run_id not in set(load_results(store.folder)["run_id"])


def test_what_another_study_asked_for_stays_in_the_cache(store: Store, specs: list[RunSpec], reads: list[str]) -> None:
    load_results(store.folder)
    reads.clear()
    assert len(study_frame(specs[:2], store)) == 2
    load_results(store.folder)
    assert reads == []


def damages(content: bytes) -> dict[str, bytes]:
    found = {"empty": b"", "half": content[: len(content) // 2], "text": b"<html>", "more": content + b"x"}
    for place in range(10, len(content), len(content) // 40):
        found[f"byte {place}"] = content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]
    return found


def test_a_damaged_cache_changes_nothing(store: Store, reads: list[str]) -> None:
    expected = load_results(store.folder)
    path = cache_path(store)
    content = path.read_bytes()
    for name, damage in damages(content).items():
        path.write_bytes(damage)
        assert same(load_results(store.folder), expected), name
    reads.clear()
    path.write_bytes(b"")
    load_results(store.folder)
    assert len(reads) == len(expected)
    reads.clear()
    load_results(store.folder)
    assert reads == []  # it was written anew


@pytest.mark.parametrize("change", ["other columns", "other maker", "twice the same run"])
def test_a_foreign_cache_is_not_believed(store: Store, reads: list[str], change: str) -> None:
    load_results(store.folder)
    path = cache_path(store)
    table = pq.read_table(path)
    metadata = table.schema.metadata
    if change == "other columns":
        table = pa.table({"run_id": ["x"], "test_accuracy": [0.99]}).replace_schema_metadata(metadata)
    elif change == "other maker":
        table = table.replace_schema_metadata({b"pbt-bench": b"of another version"})
    else:
        table = pa.concat_tables([table, table]).replace_schema_metadata(metadata)
    pq.write_table(table, path)
    reads.clear()
    found = load_results(store.folder)
    assert len(reads) == len(found) == len(set(found["run_id"]))


def test_without_room_for_a_cache_the_records_are_read_each_time(store: Store, reads: list[str]) -> None:
    store.folder.joinpath("cache").write_text("a file in the way")
    assert same(load_results(store.folder), load_results(store.folder))
    assert store.folder.joinpath("cache").read_text() == "a file in the way"


def test_a_folder_in_its_place_is_no_cache(store: Store) -> None:
    cache_path(store).mkdir(parents=True)
    assert len(load_results(store.folder)) == len(list(store.runs.iterdir()))


def test_a_number_that_no_column_holds_makes_no_record(
    store: Store, specs: list[RunSpec], capsys: pytest.CaptureFixture[str]
) -> None:
    path = store.path(specs[1].run_id)
    path.write_bytes(path.read_bytes().replace(b'"flops_dense": 2000000', b'"flops_dense": ' + b"9" * 30))
    table = study_frame(specs, store)
    assert list(table["status"][:3]) == ["done", "missing", "done"]
    assert f"{path} is not a record" in capsys.readouterr().err


def test_frames_of_records_and_of_their_cache_are_the_same(
    store: Store, specs: list[RunSpec], record: Callable[..., RunRecord]
) -> None:
    load_results(store.folder)
    stored = study_frame(specs[:-1], store).drop(columns="state")
    pd.testing.assert_index_equal(stored.columns, frame([]).columns)
    assert same(stored, frame(map(record, specs[:-1])))


def test_layers_and_curves_are_sequences_of_what_was_recorded(
    record: Callable[..., RunRecord], specs: list[RunSpec]
) -> None:
    run = record(specs[1])
    row = decode(encode([run])).iloc[0]
    assert row["layers"] == run.pruning.layers
    assert tuple(row["layers"][1:3]) == run.pruning.layers[1:3]
    assert row["layers"].densities.tolist() == [layer.kept / layer.prunable for layer in run.pruning.layers]
    blind = msgspec.structs.replace(run.curve[0], validation_loss=None, validation_accuracy=None)
    run = msgspec.structs.replace(run, curve=(blind, *run.curve[1:]))
    curve = decode(encode([run])).iloc[0]["curve"]
    assert curve == run.curve
    assert curve[-1] == run.curve[-1]
    assert list(curve.column("train_loss")) == [epoch.train_loss for epoch in run.curve]


def test_a_run_takes_a_few_kilobytes_and_what_repeats_is_there_once(
    tmp_path: Path,
    grid: Callable[..., Grid],
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> None:
    specs = grid(seed=tuple(range(12))).runs()
    store = stored(tmp_path, [record(spec) for spec in specs])
    for _ in range(2):  # from the records, and from the cache
        table = read(store)
        assert table.num_rows == len(specs) > 1000
        assert table.nbytes / len(specs) < 3000
        assert cache_path(store).stat().st_size / len(specs) < 3000
        rows = decode(table)
        assert len({id(recipe) for recipe in rows["recipe"]}) == 1
        assert len({id(layers.names) for layers in rows["layers"]}) == 1


def test_several_processes_read_the_same(
    store: Store,
    specs: list[RunSpec],
    reads: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    damaged = store.path(specs[0].run_id)
    damaged.write_bytes(b"{")
    alone = load_results(store.folder)
    assert len(reads) == 1 + len(alone) >= 4
    reads.clear()
    cache_path(store).unlink()
    capfd.readouterr()
    monkeypatch.setattr("pbt_bench.analysis.records.cache._BATCH", 1)
    monkeypatch.setattr("pbt_bench.analysis.records.cache.processes", lambda: 2)
    assert same(load_results(store.folder), alone)
    assert reads == [], "others have read them"
    assert capfd.readouterr().err.count(f"{damaged} is not a record") == 1
