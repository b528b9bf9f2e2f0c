"""Records become one row each, with nothing lost and nothing made up."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from pbt_bench.analysis.records.data_frame import frame, load_results
from pbt_bench.analysis.records.nested import as_objects
from pbt_bench.errors import RequestError
from pbt_bench.running.record import MaskMetrics, RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import Grid

OLD = Path(__file__).parents[2] / "records_of_versions" / "format_1"


def test_one_row_per_run_with_the_values_of_the_record(
    tmp_path: Path,
    grid: Callable[..., Grid],
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> None:
    specs = grid(model=("vgg8",), method=("snip", "fts"), sparsity=(0.9, 0.98)).runs()
    records = {spec.run_id: record(spec) for spec in specs}
    stored(tmp_path, list(records.values()))
    table = load_results(str(tmp_path)).set_index("run_id")
    assert set(table.index) == set(records)
    for run_id, row in table.iterrows():
        run = records[run_id]
        assert row["status"] == "done"
        for name in ("dataset", "model", "method", "sparsity", "seed", "scope", "sanity", "warmup", "rewind", "init"):
            assert row[name] == getattr(run.spec, name)
        for name in ("test_accuracy", "test_loss", "best_validation_epoch", "chance_accuracy"):
            assert row[name] == getattr(run.metrics, name)
        for name in ("prunable", "kept", "realised_sparsity", "effective_sparsity", "zero_score_share", "flops_sparse"):
            assert row[name] == getattr(run.pruning, name)
        assert row["mask_sparsity"] == run.pruning.sparsity
        assert row["layers"] == run.pruning.layers
        assert row["curve"] == run.curve
        assert row["epochs"] == run.spec.recipe.epochs


def test_metrics_of_the_mask_are_columns_and_missing_in_old_records(
    grid: Callable[..., Grid], record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    (run,) = map(record, grid(model=("vgg8",), method=("snip",), sparsity=(0.995,), seed=(0,)).runs()[:1])
    row = frame([run]).iloc[0]
    for name, value in msgspec.to_builtins(run.pruning.mask_metrics).items():
        assert row[name] == value or (value is None and np.isnan(row[name]))
    shutil.copytree(OLD, tmp_path / "old")
    old = load_results(tmp_path / "old")
    assert len(old) > 5
    assert old[list(MaskMetrics.__struct_fields__)].isna().all(axis=None)
    assert np.isnan(old["layers"].iloc[0].live_units).all()
    assert old["layers"].iloc[0][0].ramanujan_gap is None


def test_rows_are_in_an_order_that_does_not_depend_on_the_ids(
    tmp_path: Path,
    grid: Callable[..., Grid],
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> None:
    stored(tmp_path, [record(spec) for spec in grid(model=("vgg8",)).runs()])
    table = load_results(tmp_path)
    keys = list(zip(table["method"], table["sparsity"], table["seed"], strict=True))
    assert keys == sorted(keys)


def test_failed_and_missing_runs_have_no_numbers_but_a_row(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    failed, missing, done = grid(model=("vgg8",), method=("snip",)).runs()[:3]
    table = frame([record(failed, "failed"), missing, record(done)])
    assert list(table["status"]) == ["failed", "missing", "done"]
    assert list(table["run_id"]) == [failed.run_id, missing.run_id, done.run_id]
    assert list(table["test_accuracy"].isna()) == [True, True, False]
    assert list(table["kept"].isna()) == [True, True, False]
    assert table["error"][0] == "ScoreError: fts: conv1.weight has a NaN score"
    assert table["error"][2] is None


def test_column_types_do_not_depend_on_what_failed(grid: Callable[..., Grid], record: Callable[..., RunRecord]) -> None:
    spec = grid().runs()[1]
    done, failed = frame([record(spec)]), frame([record(spec, "failed")])
    assert list(done.dtypes) == list(failed.dtypes)
    assert done["kept"].dtype == pd.Int64Dtype()


def test_diverged_and_collapsed_runs_keep_their_accuracy(
    grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    specs = grid().runs()[1:3]
    table = frame([record(specs[0], "diverged", 0.12), record(specs[1], "collapsed", 0.1)])
    assert list(table["test_accuracy"]) == [0.12, 0.1]


def test_a_folder_without_runs_is_a_request_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=str(tmp_path / "nothing")):
        load_results(tmp_path / "nothing")


def test_importing_the_room_imports_neither_pandas_nor_matplotlib() -> None:
    code = "import sys, pbt_bench.analysis; print(sorted({'pandas', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_mean_needs_no_care_about_missing_runs(grid: Callable[..., Grid], record: Callable[..., RunRecord]) -> None:
    specs = grid(model=("vgg8",), method=("snip",), sparsity=(0.9,)).runs()
    table = frame([record(specs[0], accuracy=0.5), specs[1]])
    assert math.isclose(table["test_accuracy"].mean(), 0.5)


def test_a_table_can_be_saved_read_and_freed_of_duplicates(
    tmp_path: Path,
    grid: Callable[..., Grid],
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> None:
    specs = grid(model=("vgg8",), method=("snip",), sparsity=(0.9, 0.98)).runs()
    stored(tmp_path / "study", [*map(record, specs[1:]), record(specs[0], "failed")])
    table = load_results(tmp_path / "study")
    table.to_parquet(tmp_path / "x.parquet")
    table.to_feather(tmp_path / "x.feather")
    for read in (pd.read_parquet(tmp_path / "x.parquet"), pd.read_feather(tmp_path / "x.feather")):
        assert json.loads(read["recipe"].iloc[0])["epochs"] == specs[0].recipe.epochs
        found = as_objects(read)
        for name in ("recipe", "scoring", "options", "notes", "environment", "layers", "curve"):
            assert list(found[name]) == list(table[name]), name
        assert read["layers"].isna().sum() == table["layers"].isna().sum() == 1
    assert pd.concat([table, table.iloc[::2]]).drop_duplicates().equals(table)
    assert len(table.groupby("recipe")) == 1
    assert table.reindex([len(table)])["layers"].isna().all()
