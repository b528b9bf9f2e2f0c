"""Tables in the layout of the papers, with rows of sparsities and columns of methods, as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pbt_bench.analysis.frame import STATUSES
from pbt_bench.analysis.paired import Standing
from pbt_bench.analysis.published import Published, differences, matching
from pbt_bench.analysis.style import tick_label
from pbt_bench.analysis.summary import Panel, counted_accuracy, summarise
from pbt_bench.errors import printable, spreadsheet_text
from pbt_bench.spec import DENSE

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
}
HERE, PUBLISHED, DIFFERENCE = "here", "published", "Δ"
_MARKS = (
    "Bold: better than every other method. Underlined: the highest mean and, where some method is worse, "
    "all that cannot be told from it."
)


@dataclass(frozen=True)
class Cell:
    """Mean and standard deviation in percent, as formatted text; both are empty if no number exists."""

    mean: str = ""
    std: str = ""  # empty for a single run
    note: str = ""  # "n = 2" if seeds are missing, "1 collapsed", "missing"
    mark: str = ""  # "best": better than every other method; "tied": the highest mean, or indistinguishable from it

    @property
    def text(self) -> str:
        """Mean, standard deviation and note without the mark, for example `90.00 ± 2.00 (n = 2)`."""
        return _joined(self.mean, f"± {self.std}" if self.std else "", f"({self.note})" if self.note else "") or "–"


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
    notes: list[str]  # below the table: differences between published and measured runs
    numbers: pd.DataFrame  # long format, accuracies as fractions

    @property
    def kinds(self) -> bool:
        """True if the table has rows of more than one kind and needs a column for the kind."""
        return len({row.kind for row in self.rows}) > 1


def accuracy_table(panel: Panel, found: Sequence[Standing], published: Published | None = None) -> Table:
    """Create the table of mean ± standard deviation (ddof = 1) over seeds, with published numbers.

    `found` is `standings(panel)`. A panel without any run gives a table of published numbers alone.
    """
    methods = list(dict.fromkeys(panel.runs["method"]))  # in the order of the study, which is that of the paper
    numbers = _numbers(panel, methods)
    rows = matching(published, panel) if published else pd.DataFrame()
    if len(rows):
        numbers = _beside(numbers, rows, panel)
    marks = {(standing.leader, standing.sparsity): "best" if standing.settled else "tied" for standing in found}
    marks |= {(method, standing.sparsity): "tied" for standing in found for method in standing.marked}
    alone = len(rows) > 0 and bool((rows["sparsity"] > 0).any()) and not numbers["n"].any()
    lines = []
    for sparsity in sorted(numbers["sparsity"].unique()):
        label = tick_label(sparsity) if sparsity else "0 (dense)"
        by_method = {row["method"]: row for row in numbers[numbers["sparsity"] == sparsity].to_dict("records")}
        columns = [DENSE] if sparsity == 0 else methods
        here = [_cell(by_method[method], panel.seeds, marks.get((method, sparsity), "")) for method in columns]
        printed = [_published(by_method[method]) for method in columns] if len(rows) else []
        if not alone:
            lines.append(Row(label, HERE, here))
        if any(cell.mean for cell in printed):
            lines.append(Row(label, PUBLISHED, printed))
            deltas = [_delta(by_method[method]) for method in columns]
            if not alone and any(cell.mean for cell in deltas):
                lines.append(Row(label, DIFFERENCE, deltas))
    place = {"dataset": panel.dataset, "model": panel.model, "setting": panel.setting}
    numbers = numbers.assign(**place)
    return Table(
        title=panel.title,
        caption=_caption(panel.seeds, alone, len(rows) > 0, marked=bool(marks)),
        methods=methods,
        rows=lines,
        notes=differences(published, panel, rows) if published and len(rows) else [],
        numbers=numbers[[*place, *(name for name in numbers if name not in place)]],
    )


def save_table(table: Table, stem: Path) -> None:
    """Write the table to `stem`.csv, .md and .tex, and its numbers to `stem`-numbers.csv with a row per cell."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    spreadsheet(table.numbers).to_csv(stem.with_name(f"{stem.name}-numbers.csv"), index=False)
    with stem.with_name(f"{stem.name}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [spreadsheet_text(cell) for cell in line] for line in _grid(table, table.methods, lambda cell: cell.text)
        )
    stem.with_name(f"{stem.name}.md").write_text(markdown(table), encoding="utf-8")
    stem.with_name(f"{stem.name}.tex").write_text(latex(table), encoding="utf-8")


def spreadsheet(numbers: pd.DataFrame) -> pd.DataFrame:
    """Return `numbers` with texts that a spreadsheet does not execute."""
    return numbers.map(lambda value: spreadsheet_text(value) if isinstance(value, str) else value)


def markdown(table: Table) -> str:
    """Format a GitHub table; bold is better than every other method, underlined is tied for the highest mean."""

    def show(cell: Cell) -> str:
        mean = {"best": f"**{cell.mean}**", "tied": f"<ins>{cell.mean}</ins>"}.get(cell.mark, cell.mean)
        return replace(cell, mean=mean).text

    head, *lines = _grid(table, [_markdown_text(method) for method in table.methods], show)
    rule = ["---"] * (len(head) - len(table.methods)) + ["---:"] * len(table.methods)
    body = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
    notes = "".join(f"\n- {_markdown_text(note)}" for note in table.notes)
    return f"{_markdown_text(table.title)}: {table.caption}\n\n{body}\n" + (f"{notes}\n" if notes else "")


def latex(table: Table) -> str:
    """Format a LaTeX `tabular` for a document that uses booktabs; notes are comments below it."""

    def show(cell: Cell) -> str:
        mean = {"best": rf"\textbf{{{cell.mean}}}", "tied": rf"\underline{{{cell.mean}}}"}.get(cell.mark, cell.mean)
        std = rf"{{\scriptsize $\pm$ {cell.std}}}" if cell.std else ""
        return _joined(mean, std, rf"{{\scriptsize ({cell.note})}}" if cell.note else "") or "--"

    width, grouped = len(table.methods), table.kinds
    head = [_comment(f"{table.title}: {table.caption} Needs \\usepackage{{booktabs}}.")]
    head += [rf"\begin{{tabular}}{{l{'l' * grouped}{'r' * width}}}", r"\toprule"]
    head.append(rf"{' & '.join(['sparsity', *[''] * grouped, *map(latex_text, table.methods)])} \\")
    lines, before, before_cells = [], "", list[Cell]()
    for row in table.rows:
        if row.sparsity != before:
            after_head = not before or len(before_cells) < width
            lines.append(r"\midrule" if after_head else r"\addlinespace" if grouped else "")
        cells = " & ".join(map(show, row.cells))
        if len(row.cells) < width:
            cells = rf"\multicolumn{{{width}}}{{c}}{{{cells}}}"
        kind = [r"$\Delta$" if row.kind == DIFFERENCE else row.kind] * grouped
        lines.append(rf"{' & '.join([row.sparsity if row.sparsity != before else '', *kind, cells])} \\")
        before, before_cells = row.sparsity, row.cells
    return "\n".join([*head, *filter(None, lines), r"\bottomrule", r"\end{tabular}", *map(_comment, table.notes), ""])


def _grid(table: Table, methods: Sequence[str], show: Callable[[Cell], str]) -> list[list[str]]:
    """Return head and rows, with the kind of each row if the table has more than one kind."""
    lines = [["sparsity", *[""] * table.kinds, *methods]]
    for row in table.rows:
        blanks = [""] * (len(methods) - len(row.cells))
        lines.append([row.sparsity, *[row.kind] * table.kinds, *map(show, row.cells), *blanks])
    return lines


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


def _beside(numbers: pd.DataFrame, rows: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """Add published numbers and differences to `numbers`, using the published statistic if the runs recorded it."""
    names = {name: f"published_{name}" for name in ("mean", "std", "n", "statistic", "source", "note", "comparable")}
    order = {method: place for place, method in enumerate((DENSE, *numbers["method"].unique()))}
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
    std = f"{100 * row['std']:.2f}" if n > 1 else ""
    return Cell(f"{100 * row['mean']:.2f}", std, ", ".join(notes), mark)


def _published(row: Mapping[Hashable, Any]) -> Cell:
    if np.isnan(row["published_mean"]):
        return Cell()
    std = "" if np.isnan(row["published_std"]) else f"{100 * row['published_std']:.2f}"
    return Cell(f"{100 * row['published_mean']:.2f}", std)


def _delta(row: Mapping[Hashable, Any]) -> Cell:
    return Cell() if np.isnan(row["difference"]) else Cell(f"{100 * row['difference']:+.2f}")


def _caption(seeds: int, alone: bool, published: bool, marked: bool) -> str:
    if alone:
        return "test accuracy in percent as papers printed it, mean ± standard deviation; no run here yet."
    what = f"test accuracy in percent, mean ± standard deviation over {seeds} seed{'s' * (seeds != 1)}"
    what += f"{', beside it what papers printed' if published else ''}."
    return what + f" {_MARKS}" * marked


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _comment(text: str) -> str:
    return "% " + printable(" ".join(text.split()))


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", printable(" ".join(text.split())))


def latex_text(text: str) -> str:
    """Escape characters that LaTeX would interpret as commands, and encode ± and Δ."""
    return re.sub(r"[\\~^&%$#_{}±Δ]", lambda match: _LATEX.get(match[0], "\\" + match[0]), printable(text))
