"""Read grid files: TOML, named presets, and overrides from the command line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any

import msgspec

from pbt_bench.constraints import Checked, Constraint, convert, fields, matching, read_toml
from pbt_bench.errors import RequestError, unknown
from pbt_bench.identity import LATER_OPTIONS, OPTIONS_OF_FORMAT_1
from pbt_bench.recipes import PRESETS
from pbt_bench.spec import READ_BY, Axes, FolderName, Grid, Recipe, Scoring

_MOST_RUNS = 250_000  # of a study: their ids are computed in seconds
_OTHER_FOLDERS = {
    "published": "published numbers",
    "paper": "the papers' page",
    "claims": "the page of claims",
    "board": "the board",
    "contributed": "contributed studies",
}


class Contribution(Checked, frozen=True, kw_only=True):
    """The table `[contributed]` of a study that somebody else ran."""

    by: Annotated[str, Constraint("a name of 1 to 100 characters", lambda value: 1 <= len(value.strip()) <= 100)]
    link: Annotated[str, matching(r"|https://[^\s\"'<>]{1,300}", "an address that begins with https://")] = ""
    note: str = ""


class _GridFile(Checked, frozen=True, kw_only=True):
    """The tables of a grid file."""

    name: FolderName
    grid: Axes
    recipe: Recipe = Recipe()
    scoring: Scoring = Scoring()
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    dense: bool = True
    contributed: Contribution | None = None


def load_grid(path: str | Path, overrides: Iterable[str] = ()) -> Grid:
    """Read and check a grid file; `overrides` are `key=value` with dotted keys and TOML values.

    If they leave methods of the file out, the options that the file gives these methods go too.

    Raises RequestError, in one line, naming the file and the nearest valid key or the valid values.
    """
    table = read_toml(path)
    if isinstance(table.get("recipe"), str):
        table["recipe"] = {"preset": table["recipe"]}
    overrides, before = list(overrides), _values(table, "method")
    for override in overrides:
        _override(table, override)
    options = table.get("options")
    if isinstance(options, dict):
        used = [*_values(table, "method"), *_values(table, "mask_updates")]
        for name in [name for name in options if name in before and name not in used]:
            if not any(re.match(rf"\s*options\.{re.escape(name)}\s*[.=]", override) for override in overrides):
                del options[name]
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


def contribution(path: str | Path) -> Contribution | None:
    """Return the table `[contributed]` of a grid file; None without one. Raises RequestError if it is invalid."""
    table = read_toml(path).get("contributed")
    return None if table is None else convert(table, Contribution, f"{path}: contributed")


def check_grid(table: Mapping[str, Any], where: str) -> Grid:
    """Convert plain data to a `Grid` and check every run of it. Raises RequestError that begins with `where`."""
    table = dict(table)
    varied: dict[str, tuple[Any, ...]] = {}
    for part, struct in (("recipe", Recipe), ("scoring", Scoring)):
        table[part], lists = _lists(table.get(part, {}), struct, f"{where}: {part}")
        varied |= {f"{part}.{name}": values for name, values in lists.items()}
    for name in table["scoring"] if isinstance(table["scoring"], dict) else ():
        if found := (OPTIONS_OF_FORMAT_1 | LATER_OPTIONS).get(name):
            raise RequestError(f"{where}: scoring.{name} is an option of methods: write it in [options.{found[1][0]}]")
    options = _option_sets(table.get("options", {}), where)
    file = convert(table | {"options": {}}, _GridFile, where)
    for key, values in varied.items():
        part, name = key.split(".")
        checked = [
            convert({"name": file.name, "grid": table["grid"], part: table[part] | {name: value}}, _GridFile, where)
            for value in values
        ]
        varied[key] = tuple(getattr(getattr(each, part), name) for each in checked)
    if file.name in _OTHER_FOLDERS:
        content = _OTHER_FOLDERS[file.name]
        raise RequestError(f"{where}: name = {file.name!r}: the folder results/{file.name} has {content}")
    axes = [len(getattr(file.grid, name)) for name in file.grid.__struct_fields__]
    if (runs := prod([*axes, *map(len, varied.values())])) > _MOST_RUNS:
        raise RequestError(f"{where}: {runs:,} runs; a study has at most {_MOST_RUNS:,}")
    grid = Grid(
        name=file.name,
        grid=file.grid,
        recipe=file.recipe,
        scoring=file.scoring,
        varied=varied,
        options=options,
        dense=file.dense,
    )
    try:
        grid.runs()
    except RequestError as error:
        raise RequestError(f"{where}: grid: {error}") from None
    return grid


def _lists(table: Any, struct: type[msgspec.Struct], where: str) -> tuple[Any, dict[str, tuple[Any, ...]]]:
    """Return [recipe] or [scoring] with the first value of each list that is an axis, and the values of these lists.

    For a field that is a list itself, such as milestones, a list of lists is an axis.
    """
    if not isinstance(table, dict):
        return table, {}
    plural = {field.name for field in fields(struct) if isinstance(field.default, tuple)}
    lists = {
        name: tuple(value)
        for name, value in table.items()
        if isinstance(value, list) and (name not in plural or any(isinstance(each, list) for each in value))
    }
    if empty := [name for name, values in lists.items() if not values]:
        raise RequestError(f"{where}.{empty[0]} is empty: a list is an axis and needs at least one value")
    return table | {name: values[0] for name, values in lists.items()}, lists


def _option_sets(table: Any, where: str) -> dict[str, tuple[dict[str, Any], ...]]:
    """Return every combination of the values in `[options.METHOD]`, by method."""
    if not isinstance(table, dict) or not all(isinstance(values, dict) for values in table.values()):
        raise RequestError(f"{where}: options: write one table per method, for example [options.grasp]")
    found = {}
    for method, values in table.items():
        lists = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
        if empty := [name for name, each in lists.items() if not each]:
            raise RequestError(f"{where}: options.{method}.{empty[0]} is empty: an axis needs at least one value")
        found[method] = tuple(dict(zip(lists, each, strict=True)) for each in product(*lists.values()))
    return found


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
    preset, preset_scoring, preset_options = PRESETS[name]
    changed = {choice for choice, _ in READ_BY.values() if recipe.get(choice, preset.get(choice)) != preset.get(choice)}
    inherited = {key: value for key, value in preset.items() if key not in READ_BY or READ_BY[key][0] not in changed}
    table["recipe"], table["scoring"] = inherited | recipe, {**preset_scoring, **scoring}
    given = table.get("options", {})
    if isinstance(given, dict):
        used = [method for method in preset_options if method in _values(table, "method")]
        table["options"] = {method: preset_options[method] for method in used} | given


def _values(table: Mapping[str, Any], axis: str) -> list[Any]:
    axes = table.get("grid", {})
    values = axes.get(axis, []) if isinstance(axes, dict) else []
    return values if isinstance(values, list) else [values]
