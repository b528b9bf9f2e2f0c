"""Tables in the layout of the papers, with rows of sparsities and columns of methods."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pbt_bench.analysis.records.data_frame import STATUSES
from pbt_bench.analysis.statistics.labels import counted, tick_label
from pbt_bench.analysis.statistics.paired import Standing
from pbt_bench.analysis.statistics.panel import Panel, counted_accuracy, summarise
from pbt_bench.spec import DENSE

HERE, PUBLISHED, DIFFERENCE = "here", "published", "Δ"
_MARKS = (
    "Bold: better than every other method. Underlined: the highest mean, and methods equal to it within one point (two "
    "one-sided tests). A question mark: these seeds decide neither that nor that the method is worse. Unmarked: worse."
)


@dataclass(frozen=True)
class Cell:
    """Mean and standard deviation in percent, as formatted text; both are empty if no number exists."""

    mean: str = ""
    std: str = ""  # empty for a single run
    note: str = ""  # "n = 2" if seeds are missing, "1 collapsed", "missing"
    mark: str = ""  # of the method at this sparsity: see Standing.marks

    @property
    def text(self) -> str:
        """Mean, standard deviation and note, for example `90.00 ± 2.00 (n = 2)`, with `?` if undecided."""
        std, note = f"± {self.std}" if self.std else "", f"({self.note})" if self.note else ""
        return spaced(self.mean, std, note, "?" if self.mark == "undecided" else "") or "–"


@dataclass(frozen=True)
class Row:
    """One row: the measured numbers at a sparsity, the published ones, or their difference."""

    sparsity: str
    kind: str
    cells: list[Cell]  # one per method, or a single cell for the dense network


@dataclass(frozen=True)
class Table:
    """A table of one panel or variant, as text and as numbers."""

    title: str
    caption: str
    methods: list[str]
    rows: list[Row]
    notes: Sequence[str]  # below the table: differences between published and measured runs
    numbers: pd.DataFrame  # long format, accuracies as fractions

    @property
    def kinds(self) -> bool:
        """True if the table has rows of more than one kind and needs a column for the kind."""
        return len({row.kind for row in self.rows}) > 1


def accuracy_table(panel: Panel, found: Sequence[Standing]) -> Table:
    """Create the table of mean ± standard deviation (ddof = 1) over seeds, with published numbers.

    `found` is `standings(panel)`. A panel without any run gives a table of published numbers alone.
    """
    methods = list(dict.fromkeys(panel.runs["method"]))  # in the order of the study, which is that of the paper
    numbers = _numbers(panel, methods)
    rows = panel.printed
    if len(rows):
        numbers = _add_published(numbers, rows, panel)
    marks = {(method, each.sparsity): mark for each in found for method, mark in each.marks.items()}
    alone = len(rows) > 0 and bool((rows["sparsity"] > 0).any()) and not numbers["n"].any()
    lines = []
    for sparsity in sorted(numbers["sparsity"].unique()):
        label = tick_label(sparsity) if sparsity else "0 (dense)"
        by_method = {row["method"]: row for row in numbers[numbers["sparsity"] == sparsity].to_dict("records")}
        columns = [DENSE] if sparsity == 0 else methods
        cells = [by_method[method] for method in columns]
        here = [_cell(row, panel.seeds, marks.get((row["method"], sparsity), "")) for row in cells]
        printed = [Cell(_percent(row["published_mean"]), _percent(row["published_std"])) for row in cells if len(rows)]
        if not alone:
            lines.append(Row(label, HERE, here))
        if any(cell.mean for cell in printed):
            lines.append(Row(label, PUBLISHED, printed))
            deltas = [Cell(_percent(row["difference"], "+.2f")) for row in cells]
            if not alone and any(cell.mean for cell in deltas):
                lines.append(Row(label, DIFFERENCE, deltas))
    where = {"dataset": panel.dataset, "model": panel.model, "setting": panel.setting}
    return Table(
        title=panel.title,
        caption=_caption(panel.seeds, alone, len(rows) > 0, marked=bool(marks)),
        methods=methods,
        rows=lines,
        notes=panel.notes,
        numbers=numbers.assign(**where)[[*where, *numbers]],
    )


def _numbers(panel: Panel, methods: Sequence[str]) -> pd.DataFrame:
    """Return one row per cell: every method at every sparsity, including cells without runs, and dense."""
    table = pd.concat([summarise(panel.dense), panel.cells])
    cells: list[tuple[str, float]] = [(DENSE, 0.0)] if len(panel.dense) else []
    cells += [(method, sparsity) for sparsity in panel.sparsities for method in methods]
    table = table.reindex(pd.MultiIndex.from_tuples(cells, names=["method", "sparsity"]))
    counts = ["n", *STATUSES]
    return table.fillna(dict.fromkeys(counts, 0)).astype(dict.fromkeys(counts, int)).rename(
        columns={"half": "half_interval_95"}
    ).reset_index()  # fmt: skip


def _add_published(numbers: pd.DataFrame, rows: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """Add published numbers and differences to `numbers`, using the published statistic if the runs recorded it."""
    names = {name: f"published_{name}" for name in ("mean", "std", "n", "statistic", "source", "note", "comparable")}
    order = {method: rank for rank, method in enumerate((DENSE, *numbers["method"].unique()))}
    numbers = numbers.merge(rows[["method", "sparsity", *names]].rename(columns=names), "outer", ["method", "sparsity"])
    numbers = numbers.sort_values(
        ["sparsity", "method"], key=lambda own: own.map(order) if own.name == "method" else own
    )
    numbers[["n", *STATUSES]] = numbers[["n", *STATUSES]].fillna(0).astype(int)
    runs = pd.concat([panel.dense, panel.runs])
    best = runs.assign(best=counted_accuracy(runs, "best_test_accuracy_over_epochs").astype("float64"))
    highest = best.groupby(["method", "sparsity"])["best"].agg(lambda values: values.mean(skipna=False))
    own = pd.MultiIndex.from_frame(numbers[["method", "sparsity"]])
    of_maximum = numbers["published_statistic"].str.startswith("max").fillna(False).to_numpy(dtype=bool)
    like = np.where(of_maximum, highest.reindex(own).to_numpy(), np.nan)
    measured = np.where(np.isnan(like), numbers["mean"], like)
    same = numbers.pop("published_comparable").eq(True)
    return numbers.assign(difference=(measured - numbers["published_mean"]).where(same))


def _cell(row: Mapping[Hashable, Any], seeds: int, mark: str) -> Cell:
    n = int(row["n"])
    notes = [f"n = {n}"] if 0 < n < seeds else []
    notes += [f"{row[status]} {status}" for status in ("diverged", "collapsed", "failed") if row[status]]
    if n == 0:
        return Cell(note=", ".join(notes) or "missing")
    return Cell(_percent(row["mean"]), _percent(row["std"]) if n > 1 else "", ", ".join(notes), mark)


def _percent(share: float, form: str = ".2f") -> str:
    return "" if np.isnan(share) else f"{100 * share:{form}}"


def _caption(seeds: int, alone: bool, published: bool, marked: bool) -> str:
    if alone:
        return "test accuracy in percent as papers printed it, mean ± standard deviation; no run here yet."
    what = f"test accuracy in percent, mean ± standard deviation over {counted(seeds, 'seed')}"
    what += f"{', beside it what papers printed' if published else ''}."
    return what + f" {_MARKS}" * marked


def spaced(*parts: str) -> str:
    """Join the texts that are not empty with spaces."""
    return " ".join(part for part in parts if part)
