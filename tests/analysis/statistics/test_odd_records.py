"""Records that do not fit the others of their network are named, and the study is assembled without them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.records.published import load_published
from pbt_bench.analysis.statistics.odd_records import odd_records
from pbt_bench.analysis.statistics.study import assemble
from pbt_bench.running.record import RunRecord
from pbt_bench.spec import Grid


def changed(run: RunRecord, **fields: Any) -> RunRecord:
    """The record with other fields of `pruning`."""
    assert run.pruning is not None
    return msgspec.structs.replace(run, pruning=msgspec.structs.replace(run.pruning, **fields))


def test_other_layers_and_no_prunable_weight_are_odd(
    tmp_path: Path, grid: Callable[..., Grid], record: Callable[..., RunRecord]
) -> None:
    runs = [record(spec) for spec in grid(method=("snip", "fts"), sparsity=(0.9,)).runs()]
    assert odd_records(frame(runs)) == {}
    layers = runs[1].pruning.layers
    empty = [msgspec.structs.replace(layer, prunable=0, kept=0) for layer in layers]
    renamed = [msgspec.structs.replace(layer, name=f"x.{layer.name}") for layer in layers]
    runs[1] = changed(runs[1], layers=layers[:-1])
    runs[2] = changed(runs[2], layers=tuple(empty), prunable=0, kept=0)
    runs[3] = changed(runs[3], layers=tuple(renamed))
    runs[4] = changed(runs[4], layers=(), prunable=0, kept=0)
    model = runs[1].spec.model
    assert list(odd_records(frame(runs)).values()) == [
        f"it has 6 layers; 5 runs of digits / {model} have 7",
        "it has no prunable weight",
        f"it has 7 layers of other names or sizes; 5 runs of digits / {model} have 7",
        "it has no prunable weight",
    ]
    study = assemble(frame(runs), load_published(tmp_path), lambda run_id: None)
    assert set(study.left_out) == {run.run_id for run in runs[1:5]}
    assert sum(len(panel.runs) + len(panel.dense) for panel in study.panels) == len(runs) - 4
