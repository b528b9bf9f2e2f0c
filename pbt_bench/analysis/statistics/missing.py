"""Missing runs of a study, and the estimated time that they take."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pandas as pd

from pbt_bench.analysis.records.columns import MISSING
from pbt_bench.analysis.statistics.labels import counted
from pbt_bench.analysis.statistics.method_styles import method_order
from pbt_bench.running.estimate import estimate
from pbt_bench.running.outcomes import Outcome
from pbt_bench.running.progress import duration
from pbt_bench.spec import RunSpec

_LINES_SHOWN = 6  # runs of one method that are named individually


def missing_runs(table: pd.DataFrame) -> list[str]:
    """Return one line per dataset, model and method with missing runs: their number, and each run if they are few."""
    lines = []
    for (dataset, model), runs in table.groupby(["dataset", "model"], sort=False):
        lacking = runs[runs["status"] == MISSING]
        for method in method_order(lacking["method"].unique()):
            own = lacking[lacking["method"] == method]
            total = int((runs["method"] == method).sum())
            named = [f"{run.sparsity:g} seed {run.seed}" for run in own.itertuples()]
            which = f": {', '.join(named)}" if len(own) < total and len(own) <= _LINES_SHOWN else ""
            lines.append(f"{dataset} / {model}, {method}: {len(own)} of {total}{which}")
    return lines


def time_left(specs: Sequence[RunSpec], table: pd.DataFrame) -> str:
    """Estimate the time of the missing runs of `table` on one worker from measured runs; "" if no run is missing."""
    if not (table["status"] == MISSING).any():
        return ""
    measured = table.loc[table["status"] != MISSING, ["run_id", "status", "environment"]]
    found = {row["run_id"]: msgspec.convert(row, Outcome) for row in measured.to_dict("records")}
    runs_by_id = {spec.run_id: spec for spec in specs}
    todo = [spec for run_id, spec in runs_by_id.items() if run_id not in found]
    guess = estimate(runs_by_id, todo, found)
    if guess.seconds is None:
        return "How long they take is not known: no run of this study is measured yet."
    runs = counted(guess.measured, "run")
    return f"They take one worker about {duration(guess.seconds)}, judged by the {runs} measured so far."
