"""Records as one data frame, one row per run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

import msgspec
import pandas as pd

from pbt_bench.errors import RequestError
from pbt_bench.running.record import Metrics, Pruning, RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec

MISSING = "missing"
STATUSES = ("done", "diverged", "collapsed", "failed", MISSING)

_SPEC = tuple(field.name for field in msgspec.structs.fields(RunSpec))
_RENAMED = {"sparsity": "mask_sparsity"}  # `sparsity` is the nominal one, of the spec


def load_results(folder: str | Path) -> pd.DataFrame:
    """All runs of a results folder, one row each, sorted by what was run.

    Columns: `run_id`, `status`, `error` (one line); the fields of the spec (`sparsity` is the nominal one); `epochs`
    of the recipe; all metrics (accuracies in [0, 1]); the scalars of the diagnosis (`mask_sparsity` is that of the
    masks); and as objects `recipe`, `scoring`, `layers` (tuple of `Layer`), `curve` (tuple of `Epoch`) and
    `environment`. Diverged and collapsed runs keep the accuracy they measured; what a run lacks is NaN.

    Raises RequestError, naming the folder, where it holds no run.
    """
    records = Store(Path(folder)).records()
    if not records:
        raise RequestError(f"{folder}: no runs there (expected {Path(folder) / 'runs'}/*.json)")
    table = frame(records)
    return table.sort_values([name for name in _SPEC if name not in ("recipe", "scoring")], ignore_index=True)


def frame(runs: Iterable[RunRecord | RunSpec]) -> pd.DataFrame:
    """One row per run, in the order given. A bare spec is a run without a record: its status is `missing`."""
    runs = list(runs)
    records = [None if isinstance(run, RunSpec) else run for run in runs]
    specs = [run if isinstance(run, RunSpec) else run.spec for run in runs]
    columns = {
        "run_id": _objects(run.run_id for run in runs),
        "status": _objects(MISSING if record is None else record.status for record in records),
    }
    for name in _SPEC:
        columns[name] = _objects(getattr(spec, name) for spec in specs)
    columns["sparsity"] = columns["sparsity"].astype("float64")
    columns["seed"] = columns["seed"].astype("int64")
    columns["epochs"] = _objects(spec.recipe.epochs for spec in specs).astype("int64")
    columns |= _part([record.metrics if record else None for record in records], Metrics)
    columns |= _part([record.pruning if record else None for record in records], Pruning)
    columns["curve"] = _objects(record.curve if record else () for record in records)
    columns["environment"] = _objects(record.environment if record else {} for record in records)
    columns["error"] = _objects(record.error_line if record else None for record in records)
    return pd.DataFrame(columns)


def _objects(values: Iterable[object]) -> pd.Series:
    return pd.Series(list(values), dtype="object")


def _part(parts: Sequence[Metrics | Pruning | None], kind: type[Metrics] | type[Pruning]) -> dict[str, pd.Series]:
    """The fields of one optional part of the records as columns, always of the same type."""
    columns = {}
    for field in msgspec.structs.fields(kind):
        name = field.name
        values = [None if part is None else getattr(part, name) for part in parts]
        kinds = get_args(field.type) or (field.type,)
        dtype = "float64" if float in kinds else "Int64" if int in kinds else "object"
        columns[_RENAMED.get(name, name)] = pd.Series(values, dtype=dtype)
    return columns
