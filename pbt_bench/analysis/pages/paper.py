"""Page of all studies: their tables and figures from the available results, with published numbers for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pbt_bench import shipped
from pbt_bench.analysis.figures import figures
from pbt_bench.analysis.pages.rendering import render
from pbt_bench.analysis.pages.report import Anchors, GridFile, write_report
from pbt_bench.analysis.pages.table_files import Results, accuracy_tables, latex_text, variant_tables
from pbt_bench.analysis.records.columns import MISSING
from pbt_bench.analysis.records.data_frame import study_frame
from pbt_bench.analysis.records.published import Published, published_beside
from pbt_bench.analysis.statistics.headlines import study_headline
from pbt_bench.analysis.statistics.missing import time_left
from pbt_bench.analysis.statistics.study import assemble
from pbt_bench.analysis.statistics.tables import PUBLISHED
from pbt_bench.errors import RequestError
from pbt_bench.grid_file import load_grid
from pbt_bench.running.plan import check_names
from pbt_bench.running.store import Store

_DOCUMENT = r"""\documentclass[a4paper,landscape]{article}
\usepackage[margin=1.5cm]{geometry}
\usepackage{booktabs,graphicx}
\setlength{\parindent}{0pt}
\begin{document}
%s
\end{document}
"""
_TABLE = r"""\begin{minipage}{\linewidth}
\textbf{%s} (\texttt{\detokenize{%s}}): %s

\medskip
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{\input{%s.tex}}

\medskip
\footnotesize
%s
\end{minipage}

\bigskip
"""


@dataclass(frozen=True)
class StudyEntry:
    """A study file with its report, figures and tables; their paths are relative to the page."""

    name: str
    file: Path
    about: str  # the comment at the head of the file
    runs: int
    recorded: int
    left: str  # estimated time of the missing runs
    headline: str  # "" without a run
    page: str  # "" for a study with neither a run nor a published number
    figures: list[str]
    tables: list[Results]  # those with at least one number


def write_paper(grids: Path | None, results: Path, out: Path) -> list[StudyEntry]:
    """Write a report of every study in the folder `grids`, a page of all studies, and their tables in LaTeX.

    Without `grids`, the studies are the shipped ones and those in the folder grids/ of the working directory.

    The page is `out`/index.html, and the tables are in `out`/tables.tex. Studies with runs come first, then those with
    published numbers alone. A study with neither has no report; the page only names and describes it. Raise
    RequestError if `grids` has no study file.
    """
    files = sorted(grids.glob("*.toml")) if grids else list(shipped.files(shipped.STUDIES).values())
    if not files:
        raise RequestError(f"{grids}: no study files there (expected *.toml)")
    published = published_beside(results)
    studies = [_entry(path, results, out, published) for path in files]
    studies.sort(key=lambda study: (not study.page, not study.recorded))
    out.mkdir(parents=True, exist_ok=True)
    (out / "index.html").write_text(render("paper.html.j2", studies=studies, anchor=Anchors()), encoding="utf-8")
    tables = [_latex_of(study.name, each) for study in studies for each in study.tables]
    (out / "tables.tex").write_text(_DOCUMENT % "\n".join(tables), encoding="utf-8")
    return studies


def _latex_of(study: str, shown: Results) -> str:
    table, stem = shown.table, f"{study}/tables/{shown.slug}"
    title, caption, *notes = map(latex_text, (table.title, table.caption, *table.notes))
    return _TABLE % (title, stem, caption, stem, "\n\n".join(notes))


def _entry(path: Path, results: Path, out: Path, published: Published) -> StudyEntry:
    grid = load_grid(path)
    store = Store(results / grid.name)
    specs = check_names(grid, str(path), store).runs()
    runs = study_frame(specs, store)
    study = assemble(runs, published, lambda run_id: None)
    tables = [
        each
        for each in accuracy_tables(study)
        if each.conclusions or any(row.kind == PUBLISHED and len(row.cells) > 1 for row in each.table.rows)
    ]
    shown = [*tables, *variant_tables(study)]
    recorded = int(runs["status"].ne(MISSING).sum())
    page = write_report(grid.name, specs, store, out / grid.name, runs, GridFile(path)) if shown else None
    drawings = [drawing for entry in figures() if entry.paper for drawing in entry.drawings(study) if drawing.drawn]
    return StudyEntry(
        name=grid.name,
        file=path,
        about=" ".join(shipped.head_comment(path)),
        runs=len(specs),
        recorded=recorded,
        left=time_left(specs, runs),
        headline=study_headline(study.pooled) if recorded else "",
        page=page.relative_to(out).as_posix() if page else "",
        figures=[f"{grid.name}/figures/{drawing.slug}.svg" for drawing in drawings if page],
        tables=shown,
    )
