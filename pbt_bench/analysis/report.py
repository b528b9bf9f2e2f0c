"""Report of a study: figures, tables and one self-contained page."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import pandas as pd

from pbt_bench.analysis.bounds import bounded
from pbt_bench.analysis.browse import run_data
from pbt_bench.analysis.columns import MISSING, PER_RUN
from pbt_bench.analysis.conclusions import conclusions, sentences
from pbt_bench.analysis.frame import NESTED, STATUSES, study_frame
from pbt_bench.analysis.gallery import Gallery, Picture
from pbt_bench.analysis.missing import missing_runs, time_left
from pbt_bench.analysis.overlap import Masks, Overlaps, overlap_sentence, overlaps, save_overlaps
from pbt_bench.analysis.overlap_figure import overlap_figure
from pbt_bench.analysis.paired import standings
from pbt_bench.analysis.pictures import ablation_picture, group_pictures, panel_pictures, states
from pbt_bench.analysis.published import beside, load_published, published_folder
from pbt_bench.analysis.rank_figure import rank_figure
from pbt_bench.analysis.ranks import rank_sentences, ranks
from pbt_bench.analysis.style import method_order
from pbt_bench.analysis.summary import Panel, panels, slug
from pbt_bench.analysis.tables import accuracy_table, save_table, spreadsheet
from pbt_bench.analysis.variants import variant_sentence, variant_table, variants
from pbt_bench.analysis.zeros import zero_scores
from pbt_bench.errors import printable_lines
from pbt_bench.running.store import Store
from pbt_bench.spec import DENSE, RunSpec

_LISTED = 20  # distinct errors, or values of one environment field, shown before "and n more"


def write_report(
    name: str, specs: Sequence[RunSpec], store: Store, out: Path, table: pd.DataFrame | None = None
) -> Path:
    """Write `out`/index.html, figures/ and tables/ from the records of `specs` in `store`; return the page's path.

    A spec without a record counts as missing. Published numbers for the same cells are shown with the results. Equal
    records produce equal bytes. Pass `table` = `study_frame(specs, store)` to avoid reading the records again.
    """
    published = load_published(published_folder(store.folder.parent))
    table = study_frame(specs, store) if table is None else table
    masks = _masks(store, table)
    parts = bounded(beside(panels(table), published))
    gallery = Gallery(out / "figures")
    sections: list[dict[str, Any]] = []
    for panel in parts:
        found = standings(panel)
        accuracies = accuracy_table(panel, found, published)
        save_table(accuracies, out / "tables" / panel.slug)
        shared = overlaps(panel, masks)
        sections.append(
            {
                "panel": panel,
                "table": accuracies,
                "conclusions": conclusions(panel, found),
                "sentences": sentences(panel, found),
                **panel_pictures(gallery, panel),
                "overlap": _overlap(panel, shared, out, gallery),
                "shared": shared,
                "shared_sentence": overlap_sentence(shared),
                "zeros": zero_scores(panel),
            }
        )
    changes: list[dict[str, Any]] = []
    changed = variants(parts)
    for variant in changed:
        change = variant_table(variant)
        changes.append({"sentence": variant_sentence(variant), "table": change, "slug": slug(f"change {change.title}")})
        save_table(change, out / "tables" / changes[-1]["slug"])
    ranked = ranks(parts)
    (out / "tables").mkdir(parents=True, exist_ok=True)
    spreadsheet(ranked.pairs).to_csv(out / "tables" / "ranks.csv", index=False)
    groups = group_pictures(gallery, parts)
    ablation = ablation_picture(gallery, changed, parts)
    by_rank = None
    if len(ranked.average) > 1:
        about = "Average ranks of the methods"
        by_rank = gallery.picture("ranks", about, partial(rank_figure, ranked), states(*parts))
    gallery.draw()
    script = files("pbt_bench.analysis").joinpath("page.js").read_text(encoding="utf-8")
    page = _template().render(
        name=name,
        what=_what(table),
        settings=_settings(specs),
        trained=any(spec.recipe.epochs for spec in specs),
        counts={status: int((table["status"] == status).sum()) for status in STATUSES},
        total=len(table),
        missing=missing_runs(table),
        superseded=table.attrs.get("superseded", {}),
        time_left=time_left(specs, table),
        errors=_commonest(table.loc[table["status"] == "failed", "error"].fillna("no error line")),
        groups=groups,
        variants=ablation,
        changes=changes,
        rank_sentences=rank_sentences(ranked),
        ranks=by_rank,
        sections=sections,
        printed=[section for section in sections if len(section["panel"].printed)],
        audit=_audit(table),
        scores=_scores(table),
        environment=_environment(table),
        run_data=run_data(table, parts),
        script=script,
        script_digest=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    path = out / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("pbt_bench.analysis", ".")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        finalize=printable_lines,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def _masks(store: Store, table: pd.DataFrame) -> Callable[[str], Masks | None]:
    """Return a function that reads the masks of a run id, or returns None if they are not stored."""
    stored = store.masked()
    here = table[table["run_id"].isin(stored)]
    parts = dict(zip(here["run_id"], zip(here["layers"], here["mask_digest"], strict=True), strict=True))
    return lambda run_id: store.masks_of(run_id, *parts[run_id]) if run_id in parts else None


def _overlap(panel: Panel, shared: Overlaps, out: Path, gallery: Gallery) -> Picture | None:
    """Write the table of overlaps and register its figure; return None if no two masks can be compared."""
    if shared.table.empty:
        return None
    save_overlaps(shared, out / "tables" / f"overlap-{panel.slug}.csv")
    title = f"Overlap of the masks of all pairs of methods, {panel.title}"
    table = shared.table.to_csv()  # not the states: masks are stored outside the records
    return gallery.picture(f"overlap-{panel.slug}", title, partial(overlap_figure, panel, shared), [table, panel.title])


def _what(table: pd.DataFrame) -> dict[str, str]:
    """Return the axes of the study and their values, without axes that have only their default value."""
    pruned = table[table["method"] != DENSE]
    defaults = {field.name: field.default for field in msgspec.structs.fields(RunSpec)}
    shown = {}
    for name in ("dataset", "model", "method", "sparsity", "seed", *defaults):
        if name in NESTED or name in shown:
            continue
        values = list(dict.fromkeys(pruned[name]))
        if name == "method":
            values = method_order(values)
        if values != [defaults[name]]:
            shown[name] = ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    return shown


def _settings(specs: Iterable[RunSpec]) -> dict[str, dict[str, str]]:
    """Return all values that occur of each field of recipe and scoring."""
    shown: dict[str, dict[str, dict[str, None]]] = {"recipe": {}, "scoring": {}}
    for kind, fields in shown.items():
        for part in dict.fromkeys(getattr(spec, kind) for spec in specs):
            for name, value in msgspec.structs.asdict(part).items():
                fields.setdefault(name, {})[_plain(value)] = None
    return {kind: {name: " or ".join(values) for name, values in fields.items()} for kind, fields in shown.items()}


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "default" if value is None else str(value)


def _audit(table: pd.DataFrame) -> dict[str, int]:
    """Count the runs whose realised sparsity equals the mask's, and those whose mask has the requested sparsity.

    Both comparisons are exact to one weight.
    """
    pruned = table.dropna(subset=["realised_sparsity", "mask_sparsity"])
    weights = pruned["prunable"].astype("float64")
    realised = (pruned["realised_sparsity"] - pruned["mask_sparsity"]).abs() * weights
    asked = pruned["sparsity"] * weights - (weights - pruned["kept"].astype("float64"))
    return {
        "runs": len(pruned),
        "realised": int((realised < 0.5).sum()),
        # floor(sparsity * prunable) is less than one weight below the product; -1e-3 allows for rounding of floats.
        "exact": int(asked.between(-1e-3, 1, inclusive="left").sum()),
    }


def _scores(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Summarise the scoring of each method: zero scores, ties at the threshold, runs with empty layers, seconds."""
    pruned = table[(table["method"] != DENSE) & table["prunable"].notna()]
    rows = []
    for method in method_order(pruned["method"].unique()):
        own = pruned[pruned["method"] == method]
        rows.append(
            {
                "method": method,
                "runs": len(own),
                "zero_mean": own["zero_score_share"].mean(),
                "zero_max": own["zero_score_share"].max(),
                # With more zero scores than pruned weights, order alone decides which zero scores are kept.
                "tied": int((own["zero_score_share"] > own["mask_sparsity"]).sum()),
                "collapsed": int((own["collapsed_layers"] > 0).sum()),
                "seconds": own["scoring_seconds"].median(),
            }
        )
    return rows


def _environment(table: pd.DataFrame) -> dict[str, list[tuple[str, int]]]:
    """Return all values of each environment field, with the number of runs that recorded each value."""
    values: dict[str, list[str]] = {}
    for place in table.loc[table["status"] != MISSING, "environment"]:
        for name, value in place.items():
            if name in PER_RUN:
                continue
            fields = value if isinstance(value, dict) else {"": value}
            for key, item in fields.items():
                values.setdefault(f"{name} {key}".strip(), []).append(str(item))
    return {name: _commonest(found) for name, found in sorted(values.items())}


def _commonest(values: Iterable[str]) -> list[tuple[str, int]]:
    """Count distinct values, most frequent first; combine those after the first 20 into one entry."""
    ranked = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    rest = ranked[_LISTED:]
    return ranked[:_LISTED] + ([(f"… and {len(rest)} more", sum(n for _, n in rest))] if rest else [])
