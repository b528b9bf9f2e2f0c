"""Page of all studies: their tables and figures from the available results, with published numbers for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jinja2

from pbt_bench.analysis.columns import MISSING
from pbt_bench.analysis.conclusions import sentences
from pbt_bench.analysis.frame import study_frame
from pbt_bench.analysis.missing import time_left
from pbt_bench.analysis.paired import standings
from pbt_bench.analysis.published import Published, load_published, published_folder
from pbt_bench.analysis.report import write_report
from pbt_bench.analysis.summary import panels, slug
from pbt_bench.analysis.tables import PUBLISHED, Table, accuracy_table, latex_text
from pbt_bench.analysis.variants import variant_sentence, variant_table, variants
from pbt_bench.errors import RequestError, printable_lines
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


_FIGURES = ("accuracy-*", "compression-*", "critical-*", "variants")  # the study's own page shows the other figures


@dataclass(frozen=True)
class Shown:
    """A table of a study with at least one number; `stem` is the path of its files from the page, without suffix."""

    stem: str
    table: Table
    sentences: list[str]


@dataclass(frozen=True)
class Study:
    """A study file with its report, figures and tables; their paths are relative to the page."""

    name: str
    file: Path
    about: str  # the comment at the head of the file
    runs: int
    recorded: int
    left: str  # estimated time of the missing runs
    page: str  # "" for a study with neither a run nor a published number
    figures: list[str]
    tables: list[Shown]


def write_paper(grids: Path, results: Path, out: Path) -> list[Study]:
    """Write a report of every study in the folder `grids`, a page of all studies, and their tables in LaTeX.

    The page is `out`/index.html, and the tables are in `out`/tables.tex. A study with neither a run nor a published
    number has no report; the page only names and describes it. Raise RequestError if `grids` has no study file.
    """
    files = sorted(grids.glob("*.toml"))
    if not files:
        raise RequestError(f"{grids}: no study files there (expected *.toml)")
    published = load_published(published_folder(results))
    studies = [_study(path, results, out, published) for path in files]
    studies.sort(key=lambda study: (not study.page, not study.recorded))
    loader = jinja2.PackageLoader("pbt_bench.analysis", ".")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        finalize=printable_lines,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    out.mkdir(parents=True, exist_ok=True)
    page = environment.get_template("paper.html.j2").render(studies=studies)
    (out / "index.html").write_text(page, encoding="utf-8")
    shown = [_latex(shown) for study in studies for shown in study.tables]
    (out / "tables.tex").write_text(_DOCUMENT % "\n".join(shown), encoding="utf-8")
    return studies


def _latex(shown: Shown) -> str:
    table = shown.table
    title, caption, *notes = map(latex_text, (table.title, table.caption, *table.notes))
    return _TABLE % (title, shown.stem, caption, shown.stem, "\n\n".join(notes))


def _study(path: Path, results: Path, out: Path, published: Published) -> Study:
    grid = load_grid(path)
    store = Store(results / grid.name)
    specs = check_names(grid, str(path), store).runs()
    runs = study_frame(specs, store)
    shown = []
    parts, folder = panels(runs), f"{grid.name}/tables"
    for panel in parts:
        found = standings(panel)
        table = accuracy_table(panel, found, published)
        if found or any(row.kind == PUBLISHED and len(row.cells) > 1 for row in table.rows):
            shown.append(Shown(f"{folder}/{panel.slug}", table, sentences(panel, found) if found else []))
    for variant in variants(parts):
        table = variant_table(variant)
        shown.append(Shown(f"{folder}/{slug(f'change {table.title}')}", table, [variant_sentence(variant)]))
    page = write_report(grid.name, specs, store, out / grid.name) if shown else None
    figures = out / grid.name / "figures"
    return Study(
        name=grid.name,
        file=path,
        about=_head(path),
        runs=len(specs),
        recorded=int(runs["status"].ne(MISSING).sum()),
        left=time_left(specs, runs),
        page=page.relative_to(out).as_posix() if page else "",
        figures=[file.relative_to(out).as_posix() for kind in _FIGURES for file in sorted(figures.glob(f"{kind}.svg"))],
        tables=shown,
    )


def _head(path: Path) -> str:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)
