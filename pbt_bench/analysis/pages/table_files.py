"""Tables of a study with the sentences about them, and their files as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from pbt_bench.analysis.statistics.conclusions import Conclusion, conclude, main_conclusions
from pbt_bench.analysis.statistics.headlines import Headline, panel_headline
from pbt_bench.analysis.statistics.paired import standings
from pbt_bench.analysis.statistics.panel import slug
from pbt_bench.analysis.statistics.study import Study
from pbt_bench.analysis.statistics.tables import DIFFERENCE, Cell, Table, accuracy_table, spaced
from pbt_bench.analysis.statistics.variant_effects import variant_sentence, variant_table
from pbt_bench.errors import printable, spreadsheet_text

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
}


@dataclass(frozen=True)
class Results:
    """A table with what can be concluded from it; `slug` is the stem of its files."""

    slug: str
    table: Table
    sentences: list[str]
    conclusions: Sequence[Conclusion] = ()  # one for each sparsity with an accuracy
    headline: Headline | None = None  # of a panel


def accuracy_tables(study: Study) -> list[Results]:
    """Return the table and the conclusions of every panel."""
    found = [(panel, standings(panel)) for panel in study.panels]
    return [
        Results(
            panel.slug,
            accuracy_table(panel, order),
            main_conclusions(panel, order),
            conclude(panel, order),
            panel_headline(panel, order),
        )
        for panel, order in found
    ]


def variant_tables(study: Study) -> list[Results]:
    """Return the table of every variant and the sentence about it."""
    tables = [(variant_table(variant), [variant_sentence(variant)]) for variant in study.variants]
    return [Results(slug(f"change {table.title}"), table, sentences) for table, sentences in tables]


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
    """Format a GitHub table: bold is better than every other method, underlined the highest mean or equal to it."""

    def show(cell: Cell) -> str:
        line = f"<ins>{cell.mean}</ins>"
        mean = {"best": f"**{cell.mean}**", "highest": line, "equal": line}.get(cell.mark, cell.mean)
        return replace(cell, mean=mean).text

    head, *lines = _grid(table, [_markdown_text(method) for method in table.methods], show)
    rule = ["---"] * (len(head) - len(table.methods)) + ["---:"] * len(table.methods)
    body = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
    notes = "".join(f"\n- {_markdown_text(note)}" for note in table.notes)
    return f"{_markdown_text(table.title)}: {table.caption}\n\n{body}\n" + (f"{notes}\n" if notes else "")


def latex(table: Table) -> str:
    """Format a LaTeX `tabular` for a document that uses booktabs; notes are comments below it."""

    def show(cell: Cell) -> str:
        line = rf"\underline{{{cell.mean}}}"
        mean = {"best": rf"\textbf{{{cell.mean}}}", "highest": line, "equal": line}.get(cell.mark, cell.mean)
        mean += "?" * (cell.mark == "undecided")
        std = rf"{{\scriptsize $\pm$ {cell.std}}}" if cell.std else ""
        return spaced(mean, std, rf"{{\scriptsize ({cell.note})}}" if cell.note else "") or "--"

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


def _comment(text: str) -> str:
    return "% " + printable(" ".join(text.split()))


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", printable(" ".join(text.split())))


def latex_text(text: str) -> str:
    """Escape characters that LaTeX would interpret as commands, and encode ± and Δ."""
    return re.sub(r"[\\~^&%$#_{}±Δ]", lambda match: _LATEX.get(match[0], "\\" + match[0]), printable(text))
