"""The board: the methods of several studies by dataset, network and sparsity, on one self-contained page."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pbt_bench.analysis.pages.rendering import render
from pbt_bench.analysis.pages.report import Anchors
from pbt_bench.analysis.records.cache import read
from pbt_bench.analysis.records.columns import decode
from pbt_bench.analysis.statistics.labels import counted, text_of, tick_label
from pbt_bench.analysis.statistics.odd_records import odd_records
from pbt_bench.analysis.statistics.panel import Panel, panels
from pbt_bench.analysis.statistics.study_facts import MethodSource, method_sources
from pbt_bench.errors import RequestError
from pbt_bench.grid_file import Contribution, contribution
from pbt_bench.running.audit_log import audited_records, auditors
from pbt_bench.running.packed import SUFFIX
from pbt_bench.running.store import Store
from pbt_bench.spec import Recipe, variant_name

_SHOWN_RECIPE = ("epochs", "optimizer", "learning_rate", "batch_size", "augment")  # in the heading of a table
_OF_THE_PROJECT = "this project"
Verdicts = dict[str, tuple[str, str]]  # run id -> verdict of an audit, and who audited


@dataclass(frozen=True)
class BoardStudy:
    """A study on the board: where it comes from, and its number of runs."""

    name: str
    runs: int
    about: Contribution | None  # None for a study of the project
    audited: str


@dataclass(frozen=True)
class BoardRow:
    """A method at one sparsity."""

    sparsity: str
    method: str
    source: MethodSource
    mean: str  # of the test accuracy, in percent
    interval: str
    n: int
    collapsed: int  # disconnected networks
    diverged: int
    seconds: str  # of one mask
    flops: str  # of training, share of those of the dense network
    studies: str
    audited: str


@dataclass(frozen=True)
class BoardTable:
    """The rows of one dataset, network and setting: runs that can be compared."""

    title: str
    setting: str
    rows: Sequence[BoardRow]


def write_board(folders: Sequence[Path], out: Path) -> Path:
    """Write `out`/index.html from packed studies and results folders; return its path.

    Runs with equal settings are compared across studies, and a run that several of them have counts once. A folder of
    packed studies stands for all of them; one without any is noted. Raises RequestError for a folder that is missing,
    and if no folder has a run.
    """
    stores = []
    for folder in folders:
        found = _stores(folder)
        text = f"{folder}: no runs there (expected a packed study, runs/*.json or *{SUFFIX})"
        if not found and (folder.exists() and len(folders) > 1):
            print(f"note: {text}", file=sys.stderr)
        elif not found:
            raise RequestError(text)
        stores += found
    if not stores:
        raise RequestError(f"no runs in {', '.join(map(str, folders))}")
    frames, studies, verdicts = [], [], Verdicts()
    for store in stores:
        table = decode(read(store))
        table = table[~table["run_id"].isin(odd_records(table)) & (table["status"] != "failed")]
        name = store.folder.name
        grid_file = store.folder.with_suffix(".toml") if store.packed else Path()
        about = contribution(grid_file) if grid_file.is_file() else None
        by = auditors(store, table["run_id"])
        known = audited_records(store, table["run_id"])
        own = {run_id: (verdict, by[run_id]) for run_id, verdict in known.items()}
        verdicts |= own
        studies.append(BoardStudy(name, len(table), about, _audited_text(list(own), own)))
        frames.append(table.assign(study=f"{name} ({about.by})" if about else name))
    whole = pd.concat(frames, ignore_index=True).drop_duplicates("run_id", ignore_index=True)
    variants = zip(*(whole[name] for name in ("method", "options", "mask_updates", "update_options")), strict=True)
    whole = whole.assign(method=[variant_name(*fields) for fields in variants], state="")
    sources = {source.name: source for source in method_sources(whole["method"].unique())}
    tables = [_table(panel, sources, verdicts) for panel in panels(whole, beside_commonest=True)]
    page = render(
        "board.html.j2",
        studies=studies,
        tables=sorted(tables, key=lambda table: table.title),
        runs=len(whole),
        counted=counted,
        own=_OF_THE_PROJECT,
        anchor=Anchors(),
    )
    out.mkdir(parents=True, exist_ok=True)
    path = out / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _stores(folder: Path) -> list[Store]:
    """Return the store of a study, or those of all packed studies in a folder, which may be none."""
    store = Store(folder)
    if store.packed or store.names():
        return [store]
    return [Store(pack) for pack in sorted(folder.glob(f"*{SUFFIX}"))]


def _table(panel: Panel, sources: dict[str, MethodSource], verdicts: Verdicts) -> BoardTable:
    recipe: Recipe = panel.runs["recipe"].iloc[0]
    words = [f"{name.replace('_', ' ')} {text_of(getattr(recipe, name))}" for name in _SHOWN_RECIPE]
    rows = []
    seconds = panel.runs.groupby(["method", "seed"])["scoring_seconds"].max().groupby("method").median()
    for sparsity in panel.sparsities:
        cells = panel.cells[panel.cells.index.get_level_values("sparsity") == sparsity]
        cells = cells.droplevel("sparsity").sort_values("mean", ascending=False, kind="stable")
        for method, cell in cells.iterrows():
            runs = panel.runs[(panel.runs["method"] == method) & (panel.runs["sparsity"] == sparsity)]
            rows.append(
                _board_row(
                    str(method), sparsity, cell, runs, float(seconds.get(method, float("nan"))), sources, verdicts
                )
            )
    dense = panel.dense["test_accuracy"].dropna()
    before = f"dense {100 * dense.mean():.2f}% (n = {len(dense)}); " if len(dense) else ""
    return BoardTable(panel.title, before + ", ".join(words), rows)


def _board_row(
    method: str,
    sparsity: float,
    cell: pd.Series,
    runs: pd.DataFrame,
    seconds: float,
    sources: dict[str, MethodSource],
    verdicts: Verdicts,
) -> BoardRow:
    mean, half = 100 * cell["mean"], 100 * cell["half"]
    flops = (runs["flops_sparse"].astype("float64") / runs["flops_dense"].astype("float64")).mean()
    return BoardRow(
        sparsity=tick_label(sparsity),
        method=method,
        source=sources[method.partition(" (")[0]],
        mean=f"{mean:.2f}",
        interval=f"{max(mean - half, 0):.2f} to {min(mean + half, 100):.2f}" if half > 0 else "–",
        n=int(cell["n"]),
        collapsed=int(cell["collapsed"]),
        diverged=int(cell["diverged"]),
        seconds=f"{seconds:.3g}" if seconds == seconds else "–",
        flops=f"{100 * flops:.3g}%" if flops == flops else "–",
        studies=", ".join(dict.fromkeys(runs["study"])),
        audited=_audited_text(list(runs["run_id"]), verdicts),
    )


def _audited_text(run_ids: Sequence[str], verdicts: Verdicts) -> str:
    """Say how many runs were recomputed, how far, and by whom."""
    found = Counter(verdicts[run_id] for run_id in run_ids if run_id in verdicts)
    if not found:
        return "no"
    parts = []
    for (verdict, by), count in sorted(found.items()):
        parts.append(f"{verdict} of {count}" + (f" by {by}" if by else ""))
    return ", ".join(parts)
