"""Pages of the models and datasets, of the figures, of the study files, and of the recipes of published code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from text import cited, escaped, prose, toml, toml_block

from pbt_bench.analysis.figures import figures
from pbt_bench.data import datasets
from pbt_bench.grid_file import load_grid
from pbt_bench.models import listing
from pbt_bench.recipes import PRESETS
from pbt_bench.spec import Grid

ROOT = Path(__file__).parents[2]


def names_page() -> str:
    """Return the page of the models and datasets."""
    lines = [
        "# Models and datasets",
        "",
        "This page has the names that a grid file can use. `pbt-bench list models` and `pbt-bench list datasets` print",
        "them together with those that you registered.",
        "",
    ]
    tables: dict[str, dict[str, Any]] = {
        "Models": listing(),
        "Datasets": dict(datasets().items()),
    }
    for title, entries in tables.items():
        rows = [
            f"| `{name}` | {escaped(entry.summary.rstrip('.'))} ({cited(entry.cite)}) |"
            for name, entry in sorted(entries.items(), key=lambda item: _natural(item[0]))
        ]
        lines += [f"## {title}", "", "| name | description |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def figures_page() -> str:
    """Return the page of the figures of a report, by section."""
    lines = [
        "# Figures",
        "",
        "The figures of [a report](../guide/report.md) by section. Its folder `figures/` has each as png and svg:",
        "`NAME.png` of the whole study, `NAME-DATASET-MODEL.png` of a panel, `NAME-DATASET.png` of all models of a",
        "dataset.",
        "",
    ]
    heading = ""
    for entry in figures():
        if entry.section != heading:
            heading = entry.section
            lines += [f"## {heading}", ""]
        about = prose(inspect.getdoc(entry.draw) or "").replace("\n", "\n  ")
        lines += [f"`{entry.name}`, of a {entry.of}", f": {about}", "", f"  {escaped(entry.caption)}", ""]
    return "\n".join(lines)


def _natural(name: str) -> list[str | int]:
    """Return a sort key that orders numbers by value: resnet8 before resnet18."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def studies_page() -> str:
    """Return the page of the grid files of the project: the purpose and the axes of each."""
    lines = [
        "# Studies",
        "",
        "This page describes the files in `grids/`. Every study of a published artefact has a small version that takes",
        "minutes on two cores and makes the same tables and figures. Try it before you use a cluster.",
        "",
    ]
    for path in sorted((ROOT / "grids").glob("*.toml")):
        grid = load_grid(path)
        header = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("# "):
                break
            header.append(line[2:])
        lines += [f"## {path.name}", "", cited(escaped(" ".join(header))), "", *_spans(grid), ""]
    return "\n".join(lines)


def _spans(grid: Grid) -> list[str]:
    runs = grid.runs()
    axes = grid.grid
    return [
        f"- {len(runs):,} runs of {grid.recipe.epochs} epochs, on {_names(axes.dataset)} with {_names(axes.model)}",
        f"- methods: {_names(axes.method)}",
        f"- sparsities: {', '.join(f'{sparsity:g}' for sparsity in axes.sparsity)}",
        f"- seeds: {', '.join(map(str, axes.seed))}",
        *(
            f"- {name}: {_names(values)}"
            for name in ("scope", "sanity", "warmup", "rewind", "init", "protocol", "pattern", "mask_updates")
            if len(values := getattr(axes, name)) > 1
        ),
    ]


def _names(values: tuple[object, ...]) -> str:
    return ", ".join(f"`{toml(value)}`" for value in values)


def recipes_page() -> str:
    """Return the page of the presets, the recipes of published code."""
    lines = [
        "# Recipes of published code",
        "",
        '`recipe = "fts-2025"` in a grid file selects a recipe. `preset = "fts-2025"` below `[recipe]` selects it too,',
        "and every other key below `[recipe]` overrides its value. Fields that a preset does not name have the",
        "defaults of [a grid file](grid.md).",
        "",
    ]
    for name, preset in PRESETS.items():
        options = {f"options.{method}": own for method, own in preset.options.items()}
        lines += [f"## {name}", "", *toml_block({"recipe": preset.recipe, "scoring": preset.scoring} | options), ""]
    return "\n".join(lines)
