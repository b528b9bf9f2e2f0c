"""A page per room of the code: every module with what its docstrings say."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType

import pbt_bench

ROOMS = ("pbt_bench", "data", "models", "pruning", "training", "running", "analysis")
_FACE = "what a run is, its seeds, errors and recipes; and the command line, which comes last"


def room_pages() -> dict[str, str]:
    """Path below docs/ -> MyST text, with an index."""
    pages, rows = {}, []
    for room in ROOMS:
        modules = _modules(room)
        first = _FACE if room == "pbt_bench" else (modules[0].__doc__ or "").strip().split("\n", 1)[0].rstrip(".")
        rows.append(f"| [{room}]({room}.md) | {first} |")
        blocks = [f"## {module.__name__}\n\n```{{eval-rst}}\n{_block(module)}\n```\n" for module in modules]
        pages[f"rooms/{room}.md"] = "\n".join([f"# {room}", "", *blocks])
    pages["rooms/index.md"] = "\n".join(
        [
            "# Inside",
            "",
            "For those who change pbt-bench: everything without an underscore. What users may rely on is the",
            "[Python interface](../reference/api.md). A room imports from those above it: `make lint` checks.",
            "",
            "| room | |",
            "|---|---|",
            *rows,
            "",
            "```{toctree}",
            ":hidden:",
            *ROOMS,
            "```",
            "",
        ]
    )
    return pages


def _modules(room: str) -> list[ModuleType]:
    if room == "pbt_bench":
        names = [module.name for module in pkgutil.iter_modules(pbt_bench.__path__) if not module.ispkg]
        return [import_module(f"pbt_bench.{name}") for name in names]
    package = import_module(f"pbt_bench.{room}")
    found = pkgutil.walk_packages(package.__path__, f"pbt_bench.{room}.")
    names = [module.name for module in found if ".sources." not in module.name and "._" not in module.name]
    return [package, *(import_module(name) for name in names)]


def _block(module: ModuleType) -> str:
    return f".. automodule:: {module.__name__}\n   :members:\n   :no-index:"
