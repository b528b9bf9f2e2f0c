"""Every table and figure of the papers from whatever results there are, beside the published numbers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jinja2

from pbt_bench.analysis.columns import MISSING
from pbt_bench.analysis.frame import frame, study_frame
from pbt_bench.analysis.missing import time_left
from pbt_bench.analysis.published import Published, load_published, matching, published_folder
from pbt_bench.analysis.report import write_report
from pbt_bench.analysis.summary import panels
from pbt_bench.errors import RequestError
from pbt_bench.running.plan import check_names
from pbt_bench.running.store import Store
from pbt_bench.spec import Grid, load_grid

_DOCUMENT = r"""\documentclass[a4paper,landscape]{article}
\usepackage[margin=1.5cm]{geometry}
\usepackage{booktabs,graphicx}
\setlength{\parindent}{0pt}
\begin{document}
%s
\end{document}
"""
_TABLE = r"""\begin{minipage}{\linewidth}
\texttt{\detokenize{%s}}

\medskip
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{\input{%s}}
\end{minipage}

\bigskip
"""


@dataclass(frozen=True)
class Study:
    """One study file and what was made of it; paths are relative to the page."""

    name: str
    file: Path
    about: str  # the comment at the head of the file
    runs: int
    recorded: int
    left: str  # how long the rest takes
    page: str  # "" where there is neither a run nor a published number
    figures: list[str]
    tables: list[str]  # without suffix: .csv, .md and .tex


def write_paper(grids: Path, results: Path, out: Path) -> list[Study]:
    """A report of every study in the folder `grids`, `out`/index.html over them, and `out`/tables.tex.

    A study with neither a run nor a published number is only listed. Raises RequestError if there is no study file.
    """
    files = sorted(grids.glob("*.toml"))
    if not files:
        raise RequestError(f"{grids}: no study files there (expected *.toml)")
    published = load_published(published_folder(results))
    studies = [_study(path, results, out, published) for path in files]
    studies.sort(key=lambda study: (not study.page, not study.recorded))
    loader = jinja2.PackageLoader("pbt_bench.analysis", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    out.mkdir(parents=True, exist_ok=True)
    page = environment.get_template("paper.html.j2").render(studies=studies)
    (out / "index.html").write_text(page, encoding="utf-8")
    tables = "\n".join(_TABLE % (table, f"{table}.tex") for study in studies for table in study.tables)
    (out / "tables.tex").write_text(_DOCUMENT % tables, encoding="utf-8")
    return studies


def _study(path: Path, results: Path, out: Path, published: Published) -> Study:
    grid = check_names(load_grid(path), str(path))
    store, specs = Store(results / grid.name), grid.runs()
    table = study_frame(specs, store)
    recorded = int(table["status"].ne(MISSING).sum())
    folder = out / grid.name
    page = None
    if recorded or _printed(grid, published):
        page = write_report(grid.name, specs, store, folder)
    tables = sorted({file.with_suffix("") for file in folder.glob("tables/*.tex")}) if page else []
    return Study(
        name=grid.name,
        file=path,
        about=_head(path),
        runs=len(specs),
        recorded=recorded,
        left=time_left(specs, table),
        page=os.path.relpath(page, out) if page else "",
        figures=_relative(sorted(folder.glob("figures/accuracy-*.svg")), out) if page else [],
        tables=_relative(tables, out),
    )


def _printed(grid: Grid, published: Published) -> bool:
    """A paper printed a number for some pruned cell of the study."""
    return any((matching(published, panel)["sparsity"] > 0).any() for panel in panels(frame(grid.runs())))


def _head(path: Path) -> str:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def _relative(paths: Iterable[Path], out: Path) -> list[str]:
    return [Path(os.path.relpath(path, out)).as_posix() for path in paths]
