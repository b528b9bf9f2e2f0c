"""Pages of the packages: the modules of each with their docstrings."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType

import pbt_bench

PACKAGES = ("pbt_bench", "data", "models", "connectivity", "sparse", "pruning", "training", "running", "analysis")
_FACE = "specification of a run, seeds, errors, recipes, and the command line"


def package_pages() -> dict[str, str]:
    """Return the pages, an index included: path below docs/ -> MyST text."""
    pages, rows = {}, []
    for package in PACKAGES:
        modules = _modules(package)
        first = _FACE if package == "pbt_bench" else (modules[0].__doc__ or "").strip().split("\n", 1)[0].rstrip(".")
        rows.append(f"| [{package}]({package}.md) | {first} |")
        blocks = [f"## {module.__name__}\n\n```{{eval-rst}}\n{_block(module)}\n```\n" for module in modules]
        pages[f"packages/{package}.md"] = "\n".join([f"# {package}", "", *blocks])
    pages["packages/index.md"] = "\n".join(
        [
            "# Packages",
            "",
            "These pages are for developers of pbt-bench. They describe every name without a leading underscore. The",
            "[Python interface](../reference/api.md) is the stable interface for users. A package imports only the",
            "packages above it in this table, which `make lint` checks.",
            "",
            "| package | contents |",
            "|---|---|",
            *rows,
            "",
            "```{toctree}",
            ":hidden:",
            *PACKAGES,
            "```",
            "",
        ]
    )
    return pages


def _modules(name: str) -> list[ModuleType]:
    if name == "pbt_bench":
        names = [module.name for module in pkgutil.iter_modules(pbt_bench.__path__) if not module.ispkg]
        return [import_module(f"pbt_bench.{name}") for name in names]
    package = import_module(f"pbt_bench.{name}")
    found = pkgutil.walk_packages(package.__path__, f"pbt_bench.{name}.")
    names = [module.name for module in found if ".sources." not in module.name and "._" not in module.name]
    return [package, *(import_module(name) for name in names)]


def _block(module: ModuleType) -> str:
    return f".. automodule:: {module.__name__}\n   :members:\n   :no-index:"
