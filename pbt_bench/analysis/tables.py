"""Method x sparsity tables of the accuracy: HTML cells, Markdown, LaTeX, and plain numbers as CSV."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pbt_bench.analysis.summary import Panel, summarise

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


@dataclass(frozen=True)
class Cell:
    """Mean and standard deviation in percent, as printed; both empty where no run has an accuracy."""

    mean: str = ""
    std: str = ""  # empty for a single run
    note: str = ""  # "n = 2" where seeds lack
    mark: str = ""  # "best" or "second" of the column


@dataclass(frozen=True)
class Table:
    """One panel's table. The dense baseline, if there is one, stands above the methods and in no column."""

    title: str
    seeds: int
    sparsities: list[str]
    dense: Cell | None
    rows: list[tuple[str, list[Cell]]]
    numbers: pd.DataFrame  # long format, accuracies as fractions


def accuracy_table(panel: Panel) -> Table:
    """Mean ± standard deviation (ddof = 1) over seeds; what prints as the same mean is marked the same."""
    table, dense = summarise(panel.runs), summarise(panel.dense)
    marks: dict[Hashable, str] = {}
    for _, column in table["mean"].dropna().groupby(level="sparsity"):
        printed = (100 * column).map("{:.2f}".format)
        ranked = sorted(set(printed), key=float, reverse=True)
        names = dict(zip(ranked, ("best", "second"), strict=False))
        marks |= {key: names.get(text, "") for key, text in printed.items()}
    cells = {key: _cell(row, panel.seeds, marks.get(key, "")) for key, row in table.iterrows()}
    rows = [
        (method, [cells.get((method, sparsity), Cell()) for sparsity in panel.sparsities]) for method in panel.methods
    ]
    place = {"dataset": panel.dataset, "model": panel.model, "setting": panel.setting}
    numbers = pd.concat([dense, table]).reset_index().assign(**place)
    numbers = numbers[[*place, *(name for name in numbers if name not in place)]]
    return Table(
        title=panel.title,
        seeds=panel.seeds,
        sparsities=[f"{sparsity:g}" for sparsity in panel.sparsities],
        dense=_cell(dense.iloc[0], panel.seeds, "") if len(dense) else None,
        rows=rows,
        numbers=numbers.rename(columns={"half": "half_interval_95"}),
    )


def save_table(table: Table, stem: Path) -> None:
    """Write `stem`.csv, `stem`.md and `stem`.tex."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    table.numbers.to_csv(stem.with_name(f"{stem.name}.csv"), index=False)
    stem.with_name(f"{stem.name}.md").write_text(markdown(table), encoding="utf-8")
    stem.with_name(f"{stem.name}.tex").write_text(latex(table), encoding="utf-8")


def markdown(table: Table) -> str:
    """A GitHub table: best in bold, second underlined."""

    def show(cell: Cell) -> str:
        mean = {"best": f"**{cell.mean}**", "second": f"<ins>{cell.mean}</ins>"}.get(cell.mark, cell.mean or "–")
        return mean + (f" ± {cell.std}" if cell.std else "") + (f" ({cell.note})" if cell.note else "")

    lines = [["method", *table.sparsities], ["---", *("---:" for _ in table.sparsities)]]
    if table.dense:
        lines.append(["dense (sparsity 0)", show(table.dense), *("" for _ in table.sparsities[1:])])
    lines += [[_markdown_text(method), *(show(cell) for cell in cells)] for method, cells in table.rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{_markdown_text(table.title)}: {_caption(table)}\n\n{body}\n"


def latex(table: Table) -> str:
    """A LaTeX `tabular` for a document that uses booktabs."""

    def show(cell: Cell) -> str:
        mean = {"best": rf"\textbf{{{cell.mean}}}", "second": rf"\underline{{{cell.mean}}}"}.get(cell.mark, cell.mean)
        std = rf" {{\scriptsize $\pm$ {cell.std}}}" if cell.std else ""
        return (mean or "--") + std + (rf" {{\scriptsize ({cell.note})}}" if cell.note else "")

    width = len(table.sparsities)
    lines = [
        "% " + " ".join(f"{table.title}: {_caption(table)} Needs \\usepackage{{booktabs}}.".split()),
        rf"\begin{{tabular}}{{l{'r' * width}}}",
        r"\toprule",
        rf"sparsity & {' & '.join(table.sparsities)} \\",
        r"\midrule",
    ]
    if table.dense:
        lines += [rf"dense & \multicolumn{{{width}}}{{c}}{{{show(table.dense)}}} \\", r"\midrule"]
    lines += [rf"{_latex_text(method)} & {' & '.join(map(show, cells))} \\" for method, cells in table.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _cell(row: pd.Series, seeds: int, mark: str) -> Cell:
    n = int(row["n"])
    if n == 0:
        return Cell()
    std = f"{100 * row['std']:.2f}" if n > 1 else ""
    return Cell(f"{100 * row['mean']:.2f}", std, f"n = {n}" if n < seeds else "", mark)


def _caption(table: Table) -> str:
    return f"test accuracy in percent, mean ± standard deviation over {table.seeds} seed{'s' * (table.seeds != 1)}."


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def _latex_text(text: str) -> str:
    return re.sub(r"[\\~^&%$#_{}]", lambda match: _LATEX.get(match[0], "\\" + match[0]), text)
