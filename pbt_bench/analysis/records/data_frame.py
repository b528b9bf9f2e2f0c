"""Conversion of records to one data frame with a row per run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import pandas as pd
import pyarrow as pa

from pbt_bench.analysis.records.cache import KEY, read
from pbt_bench.analysis.records.columns import MISSING, SCHEMA, decode, encode
from pbt_bench.analysis.records.nested import as_nested
from pbt_bench.errors import RequestError
from pbt_bench.running.matching import find_others
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec

STATUSES = ("done", "diverged", "collapsed", "failed", MISSING)

NESTED = (
    "recipe",
    "scoring",
    "options",
    "update_options",
    "revisions",
)  # fields of the specification that are no single value
_SPEC = tuple(field.name for field in msgspec.structs.fields(RunSpec))


def load_results(folder: str | Path) -> pd.DataFrame:
    """Return a table with one row per run of a results folder, sorted by the fields of the specification.

    The columns are

    - `run_id`, `status` and `error` (one line);
    - the fields of the specification (`sparsity` is the requested one) and `epochs` of the recipe;
    - all metrics (accuracies in [0, 1]);
    - the scalars of the diagnosis (`mask_sparsity` is the sparsity of the masks);
    - the metrics of the mask, which records of earlier versions lack;
    - the objects `recipe`, `scoring`, `options`, `update_options`, `revisions`, `notes`, `environment`, `layers`
      (sequence of `Layer`) and `curve` (sequence of `Epoch`). Files, as of `to_parquet`, have their JSON texts.

    Diverged and collapsed runs keep their measured accuracy. Missing values are NaN. Records of every revision of the
    code are included, under the names of their files. `attrs["folder"]` is the folder, where `pbt_bench.plot` finds the
    masks and the published numbers.

    Raise RequestError with the folder's name if it has no run.
    """
    found = read(Store(folder))
    if not found.num_rows:
        raise RequestError(f"{folder}: no runs there (expected {Path(folder) / 'runs'}/*.json)")
    table = decode(found).sort_values([name for name in _SPEC if name not in NESTED], ignore_index=True)
    table = as_nested(table)
    table.attrs["folder"] = str(folder)
    return table


def frame(runs: Iterable[RunRecord | RunSpec]) -> pd.DataFrame:
    """Return a table with one row per run, in the given order; a bare spec is a run without a record (`missing`)."""
    return decode(encode(runs))


def study_frame(specs: Sequence[RunSpec], store: Store) -> pd.DataFrame:
    """Return a table with one row per spec, in their order, from the records in `store`.

    `method` includes the options of a method, for example `fts (alpha 0.3)`. The additional column `state` identifies
    the version of the record's file. Figures of unchanged states need not be drawn again. Superseded records are left
    out: `attrs["superseded"]` has their number for each reason. `attrs["unrecorded"]` has the number of
    missing runs that `pbt-bench status` counts as superseded, unreadable, damaged or newer.
    """
    wanted = {spec.run_id: spec for spec in specs}
    others = find_others(store, wanted)
    found = read(store, [store.migrated.get(run_id, run_id) for run_id in wanted])
    ids = {name: run_id for run_id, name in store.migrated.items()}
    present = [ids.get(name, name) for name in found["run_id"].to_pylist()]
    found = found.set_column(found.schema.get_field_index("run_id"), "run_id", pa.array(present, pa.string()))
    rows = {run_id: row for row, run_id in enumerate(present)}
    absent = [run_id for run_id in wanted if run_id not in rows]
    rows |= {run_id: row for row, run_id in enumerate(absent, len(present))}
    both = pa.concat_tables([found.select(SCHEMA.names), encode(wanted[run_id] for run_id in absent)])
    order = [rows[run_id] for run_id in wanted]
    table = decode(both.unify_dictionaries().combine_chunks().take(pa.array(order, pa.int64())))
    keys = zip(*(found[name].to_pylist() for name in KEY), strict=True)
    states = [*(f"{size} {modified} {changed}" for size, modified, changed in keys), *("" for _ in absent)]
    table = table.assign(state=[states[row] for row in order], method=[spec.variant for spec in wanted.values()])
    table.attrs["superseded"] = dict(Counter(why for _, why in others.superseded.values()).most_common())
    files = store.names() | store.migrated.keys()
    words: list[str] = [store.lookup(run_id).state for run_id in absent if run_id in files]
    words += ["superseded"] * len(others.superseded.keys() - files)
    table.attrs["unrecorded"] = dict(sorted(Counter(words).items()))
    return table
