"""Report of a study: figures, tables and one self-contained page."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from pbt_bench.analysis.pages.gallery import Gallery
from pbt_bench.analysis.pages.rendering import render, source
from pbt_bench.analysis.pages.run_table import run_data
from pbt_bench.analysis.pages.sections import sections
from pbt_bench.analysis.pages.table_files import accuracy_tables, save_table, variant_tables
from pbt_bench.analysis.records.data_frame import STATUSES, study_frame
from pbt_bench.analysis.records.published import load_published, published_folder
from pbt_bench.analysis.statistics import run_facts
from pbt_bench.analysis.statistics.jaccard import Masks
from pbt_bench.analysis.statistics.missing import missing_runs, time_left
from pbt_bench.analysis.statistics.study import assemble
from pbt_bench.running.audit_log import audited_records
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec

PARTS = {  # parts of the page that are not figures: heading -> order among the figures, template
    "Accuracy tables": (50, "result_tables.html.j2"),
    "What the variants change": (60, "result_tables.html.j2"),
    "Is it as sparse as claimed?": (110, "sparsity.html.j2"),
}


def write_report(
    name: str, specs: Sequence[RunSpec], store: Store, out: Path, table: pd.DataFrame | None = None
) -> Path:
    """Write `out`/index.html, figures/ and tables/ from the records of `specs` in `store`; return the page's path.

    A spec without a record counts as missing. Published numbers for the same cells are shown with the results. Equal
    records produce equal bytes. Pass `table` = `study_frame(specs, store)` to avoid reading the records again.
    """
    table = study_frame(specs, store) if table is None else table
    counts = {status: int((table["status"] == status).sum()) for status in STATUSES}
    recorded = counts["missing"] < len(table)
    study = assemble(table, load_published(published_folder(store.folder.parent)), _mask_reader(store, table))
    results, changes = accuracy_tables(study), variant_tables(study)
    for each in (*results, *changes):
        save_table(each.table, out / "tables" / each.slug)
    shown = [each for each, panel in zip(results, study.panels, strict=True) if recorded or len(panel.printed)]
    tables = dict(zip(PARTS, (shown, changes, recorded), strict=True))
    # Without a record, the published tables come before the figures.
    parts = {name: (order * recorded, part) for name, (order, part) in PARTS.items() if tables[name]}
    gallery = Gallery(out / "figures")
    found = sections(study, gallery, out / "tables", parts)
    gallery.draw()
    script = source("page.js")
    page = render(
        "page.html.j2",
        name=name,
        axes=run_facts.study_axes(table),
        settings=run_facts.settings(specs),
        trained=any(spec.recipe.epochs for spec in specs),
        counts=counts,
        total=len(table),
        recorded=recorded,
        missing=missing_runs(table),
        superseded=table.attrs.get("superseded", {}),
        time_left=time_left(specs, table),
        errors=run_facts.commonest(table.loc[table["status"] == "failed", "error"].fillna("no error line")),
        sections=found,
        results=shown,
        tables=tables,
        audit=run_facts.mask_audit(table),
        audited=Counter(audited_records(store, table["run_id"]).values()),
        scores=run_facts.scoring_summary(table),
        zeros=[(panel.title, run_facts.layer_zeros(panel)) for panel in study.panels],
        environments=(environments := run_facts.environments(table)),
        notes=run_facts.environment_notes(environments),
        run_data=run_data(table, study.panels),
        script=script,
        script_digest=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    path = out / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _mask_reader(store: Store, table: pd.DataFrame) -> Callable[[str], Masks | None]:
    """Return a function that reads the masks of a run id, or returns None if they are not stored."""
    stored = store.masked()
    here = table[table["run_id"].isin(stored)]
    parts = dict(zip(here["run_id"], zip(here["layers"], here["mask_digest"], strict=True), strict=True))
    return lambda run_id: store.masks_of(run_id, *parts[run_id]) if run_id in parts else None
