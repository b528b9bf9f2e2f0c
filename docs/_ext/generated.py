"""Documentation pages that are generated from the code when the build begins.

This module writes the pages of methods, statistics and scopes; other modules of this folder write the other pages.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from catalogue import figures_page, names_page, recipes_page, studies_page
from cost import Cost, cost, defaults
from formula import formula
from grid_keys import grid_page, record_page
from package_pages import package_pages
from sphinx.application import Sphinx
from text import cited, prose, toml, toml_block

from pbt_bench.pruning.options import Option
from pbt_bench.pruning.plugins import Pruner, Statistic, pruners, scopes, statistics

ROOT = Path(__file__).parents[2]


def pages() -> dict[str, str]:
    """Return all generated pages: path below docs/ -> MyST text."""
    torch.set_num_threads(1)  # the networks are small
    methods = {name: entry for name, entry in pruners().items() if Path(_file(entry)).parent == ROOT / "methods"}
    costs = {name: cost(name) for name in methods}
    found = {f"methods/{name}.md": method_page(entry, costs[name]) for name, entry in methods.items()}
    found["methods/index.md"] = methods_index(methods, costs)
    found["reference/statistics.md"] = statistics_page()
    found["reference/scopes.md"] = scopes_page()
    found["reference/grid.md"] = grid_page()
    found["reference/record.md"] = record_page()
    found["reference/figures.md"] = figures_page()
    found["reference/names.md"] = names_page()
    found["reference/studies.md"] = studies_page()
    found |= package_pages()
    found["reference/recipes.md"] = recipes_page()
    return found


def _file(entry: Pruner) -> str:
    return inspect.getsourcefile(entry.function) or ""


def method_page(entry: Pruner, cost: Cost) -> str:
    """Return a method's page: formula, source, statistics, cost, settings of the published code, and the file."""
    path = Path(_file(entry))
    text = inspect.getdoc(entry.function) or ""
    latex = formula(entry.function, {name: each.symbol for name, each in statistics().items()})
    schedule = "one shot" if entry.rounds == 1 else f"{entry.rounds} rounds of score and prune"
    if entry.regrow:
        schedule += "; pruned weights may return in a later round"
    names = [name for name, other in pruners()._aliases.items() if other == entry.name]
    shown = [
        "$$",
        f"s = {latex}",
        "$$",
        "",
        "This formula is read from the code below. The weights with the highest *s* are kept.",
        "",
    ]
    lines = [
        f"# {entry.name}",
        "",
        *(shown if latex else []),
        prose(text),
        "",
        "Source",
        f": {cited(entry.cite)}",
        "",
        "Schedule",
        f": {schedule}",
        "",
        "Scope",
        f": {f'`{entry.scope}`, set by the method' if entry.scope else 'the scope of the run, by default `global`'}",
        "",
        "Cost",
        f": {cost}" + (", all rounds together" if entry.rounds > 1 else ""),
        "",
        *(["Other names", f": {', '.join(f'`{name}`' for name in names)}", ""] if names else []),
        "## Statistics",
        "",
        "| symbol | statistic | source | uses the scoring data |",
        "|---|---|---|---|",
        *(_need(statistics()[name]) for name in entry.needs),
        "",
        "The page [statistics](../reference/statistics.md) has their definitions.",
        "",
        *(["## Options", "", *option_table(entry.options), ""] if entry.options else []),
        "## Settings of the published code",
        "",
        original(entry),
        "",
        "## File",
        "",
        f"`methods/{path.name}`",
        "",
        "```python",
        path.read_text(encoding="utf-8").rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _need(entry: Statistic) -> str:
    where = f"[`{entry.name}`](../reference/statistics.md#{anchor(entry.name)})"
    return f"| ${entry.symbol}$ | {where} | {cited(entry.cite)} | {'yes' if entry.data else 'no'} |"


def original(entry: Pruner) -> str:
    """Return the settings that `protocol = "original"` changes for a method."""
    if not entry.original:
        return 'The method has no settings of its own: `protocol = "original"` uses the fields of `[scoring]`.'
    head = '`protocol = "original"` uses these settings instead of those of the study:'
    lines = [head, "", *toml_block(_tables(entry, entry.original))]
    for dataset, values in entry.original_on.items():
        lines += ["", f"On `{dataset}` it also uses:", "", *toml_block(_tables(entry, values))]
    return "\n".join(lines)


def _tables(entry: Pruner, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return values of `original` by the table of a grid file that sets them."""
    options = {name: value for name, value in values.items() if name in entry.options}
    return {"scoring": {n: v for n, v in values.items() if n not in options}, f"options.{entry.name}": options}


def option_table(options: Mapping[str, Option]) -> list[str]:
    """Return the lines of a table of options."""
    rows = [f"| `{option.name}` | `{toml(option.default)}` | {option.owner} |" for option in options.values()]
    return ["| option | default | of |", "|---|---|---|", *rows]


def methods_index(methods: dict[str, Pruner], costs: dict[str, Cost]) -> str:
    """Return the page with the table of all methods and the toctree of their pages."""
    rows = [
        f"| [{name}]({name}.md) | {prose(entry.summary)} | {', '.join(f'`{n}`' for n in entry.needs)} | "
        f"{costs[name].forward} | {costs[name].backward} | {costs[name].over.removeprefix('the ')} |"
        for name, entry in methods.items()
    ]
    return "\n".join(
        [
            "# Methods",
            "",
            "Every file of `methods/` has a page. The highest scores are kept, and every method accepts every scope,",
            "sparsity and sanity check. Methods that need the same statistics share the pass that computes them.",
            "",
            "| method | score | needs | forward | backward | passes over |",
            "|---|---|---|--:|--:|---|",
            *rows,
            "",
            "Passes are counted when these pages are built, while each method prunes a small network in all its rounds",
            f"({defaults()}). Methods that share a pass share its cost.",
            "",
            "```{toctree}",
            ":hidden:",
            *methods,
            "```",
            "",
        ]
    )


def statistics_page() -> str:
    """Return the page of all statistics with their definitions."""
    lines = [
        "# Statistics",
        "",
        "A method requests statistics by the names of its arguments. A statistic has one tensor for every prunable",
        "weight tensor, of the same shape. Statistics of one pass are computed together, once for all methods and",
        "sparsities of a group of runs.",
        "",
    ]
    for name, entry in statistics().items():
        shown = ["$$", entry.formula, "$$", ""] if entry.formula else []
        source = f"Source: {cited(entry.cite)}. Computed from {'the scoring data' if entry.data else 'no data'}."
        lines += [f"## {name}", "", *shown, source, "", prose(inspect.getdoc(entry.function) or ""), ""]
        lines += [*option_table(entry.options), ""] if entry.options else []
    return "\n".join(lines)


def scopes_page() -> str:
    """Return the page of all scopes."""
    rows = [f"| `{name}` | {prose(entry.summary)} | {cited(entry.cite)} |" for name, entry in scopes().items()]
    return "\n".join(
        [
            "# Scopes",
            "",
            "A scope decides which weights are ranked together. With every scope exactly floor(sparsity · N) weights",
            "are pruned: the shares of the layers are scaled, a layer that would get more weights than it has is dense",
            "and largest remainders decide the last weights. [Your own scope](../guide/scope.md) is a function too.",
            "",
            "| scope | density of the layers | source |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def anchor(heading: str) -> str:
    """Return the URL fragment of a heading."""
    return heading.lower().replace(" ", "-")


def write(folder: Path) -> None:
    """Write every page that is new or changed, and delete the pages of methods and packages that no longer exist."""
    found = pages()
    for path, text in found.items():
        page = folder / path
        page.parent.mkdir(exist_ok=True)
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")
    for page in [*(folder / "methods").glob("*.md"), *(folder / "packages").glob("*.md")]:
        if f"{page.parent.name}/{page.name}" not in found:
            page.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx collects its source files."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir)))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
