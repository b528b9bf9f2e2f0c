"""Read grid files: TOML, named presets, and overrides from the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pbt_bench.constraints import convert, read_toml
from pbt_bench.errors import RequestError, unknown
from pbt_bench.recipes import PRESETS
from pbt_bench.spec import READ_BY, Grid


def load_grid(path: str | Path, overrides: Iterable[str] = ()) -> Grid:
    """Read and check a grid file; `overrides` are `key=value` with dotted keys and TOML values.

    Raises RequestError, in one line, naming the file and the nearest valid key or the valid values.
    """
    table = read_toml(path)
    if isinstance(table.get("recipe"), str):
        table["recipe"] = {"preset": table["recipe"]}
    for override in overrides:
        _override(table, override)
    _expand_preset(table, str(path))
    axes = table.get("grid")
    if isinstance(axes, dict):
        if "dense" in axes:  # means the same below [grid] and above it
            table["dense"] = axes.pop("dense")
        for key, value in axes.items():
            if not isinstance(value, (list, dict)):
                axes[key] = [value]
    grid = check_grid(table, str(path))
    for name in grid.recipe.unused():
        # A given default would be ignored in silence. An empty list is how --set removes the milestones of the file.
        if table.get("recipe", {}).get(name, []) != []:
            raise RequestError(f"{path}: recipe: {grid.recipe.unused_error(name)}")
    return grid


def check_grid(table: Mapping[str, Any], where: str) -> Grid:
    """Convert plain data to a `Grid` and check every run of it. Raises RequestError that begins with `where`."""
    grid = convert(table, Grid, where)
    try:
        grid.runs()
    except RequestError as error:
        raise RequestError(f"{where}: grid: {error}") from None
    return grid


def _override(table: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise RequestError(f"--set {text!r}: expected key=value, for example recipe.epochs=2")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        parsed = value.strip()  # a string without quotes
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise RequestError(f"--set {text!r}: {part!r} is not a table")
    table[path[-1]] = parsed


def _expand_preset(table: dict[str, Any], where: str) -> None:
    """Replace the name of a preset by its fields; fields in the file take precedence.

    Where the file chooses another optimizer, schedule or augmentation than the preset, the fields of the preset that
    only its own choice reads are left out.
    """
    recipe = table.get("recipe", {})
    scoring = table.get("scoring", {})
    if not isinstance(recipe, dict) or "preset" not in recipe or not isinstance(scoring, dict):
        return  # without a preset, or of a wrong type, which check_grid reports
    name = recipe.pop("preset")
    if not isinstance(name, str) or name not in PRESETS:
        raise unknown("preset", name, PRESETS, where)
    preset, preset_scoring = PRESETS[name]
    changed = {choice for choice, _ in READ_BY.values() if recipe.get(choice, preset.get(choice)) != preset.get(choice)}
    inherited = {key: value for key, value in preset.items() if key not in READ_BY or READ_BY[key][0] not in changed}
    table["recipe"], table["scoring"] = inherited | recipe, preset_scoring | scoring
