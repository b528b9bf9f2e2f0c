"""Report of a study: figures, tables and one self-contained page."""

from __future__ import annotations

import hashlib
import shlex
from base64 import b64encode
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pandas as pd

from pbt_bench import shipped
from pbt_bench.analysis.pages.gallery import Gallery
from pbt_bench.analysis.pages.rendering import render, source
from pbt_bench.analysis.pages.run_table import run_data
from pbt_bench.analysis.pages.sections import FIRST, sections
from pbt_bench.analysis.pages.table_files import accuracy_tables, save_table, variant_tables
from pbt_bench.analysis.records.columns import MISSING
from pbt_bench.analysis.records.data_frame import STATUSES, study_frame
from pbt_bench.analysis.records.published import Published, published_beside
from pbt_bench.analysis.statistics import run_facts, study_facts
from pbt_bench.analysis.statistics.headlines import study_headline
from pbt_bench.analysis.statistics.jaccard import mask_reader
from pbt_bench.analysis.statistics.missing import missing_runs, time_left
from pbt_bench.analysis.statistics.panel import slug
from pbt_bench.analysis.statistics.study import Study, assemble
from pbt_bench.running.audit_log import audited_records
from pbt_bench.running.store import Store
from pbt_bench.spec import DENSE, RunSpec

PARTS = {  # parts of the page that are not figures: heading -> order among the figures, template
    "Accuracy tables": (21, "result_tables.html.j2"),
    "Conclusions": (22, "conclusions.html.j2"),
    "What was run": (23, "study.html.j2"),
    "What the variants change": (60, "result_tables.html.j2"),
    "Is it as sparse as claimed?": (110, "sparsity.html.j2"),
    "Settings": (990, "settings.html.j2"),
    "How to run it again": (991, "commands.html.j2"),
    "All runs": (992, "runs.html.j2"),
}

_IDS = (  # of the page and its script
    "contents",
    "download-runs",
    "more-runs",
    "one-run",
    "open-all",
    "run-count",
    "run-data",
    "run-table",
    "runs",
)


@dataclass(frozen=True)
class GridFile:
    """The grid file of a study as a user named it, with the overrides of the command line."""

    path: Path
    overrides: Sequence[str] = ()

    @property
    def commands(self) -> list[str]:
        """The commands that run, report and audit the study.

        They name a shipped study, and of another file outside the working directory its file name only.
        """
        plain = not self.path.is_absolute() and ".." not in self.path.parts
        shipped_study = self.path.parent == shipped.folder(shipped.STUDIES)
        words = [self.path.stem if shipped_study else self.path.as_posix() if plain else self.path.name]
        words += [word for each in self.overrides for word in ("--set", each)]
        return [shlex.join(["pbt-bench", verb, *words]) for verb in ("run", "report", "audit")]

    @property
    def text(self) -> str:
        """The content of the file."""
        return self.path.read_text(encoding="utf-8").rstrip()


def write_report(
    name: str,
    specs: Sequence[RunSpec],
    store: Store,
    out: Path,
    table: pd.DataFrame | None = None,
    grid_file: GridFile | None = None,
) -> Path:
    """Write `out`/index.html, figures/ and tables/ from the records of `specs` in `store`; return the page's path.

    A spec without a record counts as missing. Published numbers for the same cells are shown with the results. Equal
    records produce equal bytes. Pass `table` = `study_frame(specs, store)` to avoid reading the records again, and
    `grid_file` to show the grid and the commands that run it.
    """
    table = study_frame(specs, store) if table is None else table
    recorded = bool((table["status"] != MISSING).any())
    published = published_beside(store.folder.parent)
    study = assemble(table, published, mask_reader(store, table))
    counts = _counts(table, study.left_out)
    results, changes = accuracy_tables(study), variant_tables(study)
    for each in (*results, *changes):
        save_table(each.table, out / "tables" / each.slug)
    shown = [each for each, panel in zip(results, study.panels, strict=True) if recorded or len(panel.printed)]
    transformed = {panel.slug for panel in study.panels if panel.runs["sanity"].ne("none").any()}  # checks, not results
    present = {
        "Accuracy tables": shown,
        "Conclusions": recorded,
        "What the variants change": changes,
        "Is it as sparse as claimed?": recorded,
        "How to run it again": recorded or grid_file,
    }
    # Without a record, the published tables come before the figures.
    first = {} if recorded else {"Accuracy tables": 0}
    parts = {name: (first.get(name, order), part) for name, (order, part) in PARTS.items() if present.get(name, True)}
    gallery = Gallery(out / "figures")
    found = sections(study, gallery, out / "tables", parts)
    gallery.draw()
    script, anchor = source("page.js"), Anchors()
    sparsities, labels = study_facts.sparsity_labels(table)
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
        lacking=bool((table["status"] == MISSING).any()),
        unrecorded=table.attrs.get("unrecorded", {}),
        superseded=table.attrs.get("superseded", {}),
        left_out=study.left_out,
        time_left=time_left(specs, table),
        errors=run_facts.commonest(table.loc[table["status"] == "failed", "error"].fillna("no error line")),
        sections=found,
        first=FIRST,
        headline=study_headline(study.pooled),
        headlines=[each.headline for each in sorted(shown, key=lambda each: each.slug in transformed)],
        results=shown,
        tables={"Accuracy tables": shown, "What the variants change": changes},
        test_sets=study_facts.image_worth_sentences(table),
        networks=study_facts.network_sizes(table, sparsities),
        sparsities=labels,
        methods=study_facts.method_sources(table.loc[table["method"] != DENSE, "method"].unique()),
        provenance=study_facts.provenance(table),
        grid_file=grid_file,
        audit=run_facts.mask_audit(table),
        audited=Counter(audited_records(store, table["run_id"]).values()),
        scores=run_facts.scoring_summary(table),
        zeros=[(panel.title, run_facts.layer_zeros(panel)) for panel in study.panels],
        environments=(environments := run_facts.environments(table)),
        notes=run_facts.environment_notes(environments),
        published_note=_published_note(published, study),
        run_data=run_data(table, study.panels),
        anchor=anchor,
        anchors={section.heading: anchor(section.heading) for section in found},
        script=script,
        script_digest=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    path = out / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _published_note(published: Published, study: Study) -> str:
    """Say why the page has no published number; "" if it has one."""
    if any(len(panel.printed) for panel in study.panels):
        return ""
    if not published.about:
        return "No published numbers: neither results/published nor the installation has a file of them."
    return "No published number is of this study's dataset, model, methods and sparsities."


def _counts(table: pd.DataFrame, left_out: Collection[str]) -> dict[str, int]:
    """Return the number of runs in each state, with the words of `pbt-bench status`, and of records left out."""
    status = table.loc[~table["run_id"].isin(list(left_out)), "status"]
    unrecorded: dict[str, int] = table.attrs.get("unrecorded", {})
    counts = {name: int((status == name).sum()) for name in STATUSES} | unrecorded
    counts[MISSING] -= sum(unrecorded.values())
    return counts | ({"left out": len(left_out)} if left_out else {})


class Anchors:
    """The anchors of one page: a slug for each heading, with a number where another element has the same."""

    def __init__(self) -> None:
        self._used = set(_IDS)

    def __call__(self, heading: str) -> str:
        """Return the anchor of the next heading of this text."""
        stem = slug(heading).lower()
        found = next(name for i in count(1) if (name := f"{stem}-{i}" if i > 1 else stem) not in self._used)
        self._used.add(found)
        return found
