"""Check a grid before any run starts, and find its missing runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pbt_bench.data import dataset_revision, datasets, load
from pbt_bench.errors import RequestError
from pbt_bench.identity import ORIGINAL_REVISION, TRAINING_REVISION
from pbt_bench.models import find, model_revision
from pbt_bench.pattern_names import parse
from pbt_bench.pruning.plugins import Pruner, method_revisions, pruners, scope_revisions, scopes
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import Grid, Revision, RunSpec


def check_names(grid: Grid, where: str) -> Grid:
    """Replace aliases in `grid` by the names of their methods, and leave out options at their default.

    Raises RequestError for an unknown name, and for an option that is unknown or has an invalid value. Statistics,
    which import torch, are loaded only for options and for methods from outside the project.
    """
    try:
        for name in grid.grid.dataset:
            datasets()[name]
        for name in grid.grid.model:
            find(name)
        for name in grid.grid.scope:
            scopes()[name]
        for name in grid.grid.pattern:
            pattern = parse(name)
            if pattern and not any(map(pattern.allows, grid.grid.sparsity)):
                pattern.check(grid.grid.sparsity[0])
            if pattern and grid.grid.scope != ("global",):
                raise RequestError(f"scope = {grid.grid.scope[0]!r} cannot be combined with pattern = {name!r}")
            if pattern and "shuffle" in grid.grid.sanity:
                raise RequestError(f"sanity = 'shuffle' cannot be combined with pattern = {name!r}: it is lost")
        entries = [pruners()[name] for name in grid.grid.method]
        for entry in entries:
            entry.in_scope(*grid.grid.scope)
            if entry.scope and (patterns := [name for name in grid.grid.pattern if parse(name)]):
                raise RequestError(
                    f"method {entry.name!r} has the scope {entry.scope!r}, which cannot be combined with "
                    f"pattern = {patterns[0]!r}"
                )
            if not entry.shipped:
                entry.check()
        options = _options(grid, entries)
        revisions = _revisions(grid, entries)
        methods = tuple(dict.fromkeys(entry.name for entry in entries))
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None
    axes = msgspec.structs.replace(grid.grid, method=methods)
    return msgspec.structs.replace(grid, grid=axes, options=options, revisions=revisions)


def _options(grid: Grid, entries: Sequence[Pruner]) -> dict[str, tuple[dict[str, Any], ...]]:
    """Return the checked option sets of each method."""
    found = {}
    for given, sets in grid.options.items():
        name = pruners()[given].name
        if name not in {entry.name for entry in entries}:
            raise RequestError(f"options.{given}: {name!r} is not a method of this grid")
        found[name] = tuple(pruners()[name].checked_options(values, f"options.{given}") for values in sets)
    return found


def _revisions(grid: Grid, entries: Sequence[Pruner]) -> dict[str, dict[str, Revision]]:
    """Return the revisions that are not 1 of the training and of the names in a grid."""
    found: dict[str, dict[str, Revision]] = {
        "training": {"training": TRAINING_REVISION},
        "protocol original": {"original": ORIGINAL_REVISION},
    }
    found |= {f"dataset {name}": {f"dataset {name}": dataset_revision(name)} for name in grid.grid.dataset}
    found |= {f"model {name}": {f"model {name}": model_revision(name)} for name in grid.grid.model}
    found |= {f"method {entry.name}": method_revisions(entry.name) for entry in entries}
    found |= {f"scope {name}": scope_revisions(name) for name in grid.grid.scope}
    kept = {key: {name: value for name, value in each.items() if value != 1} for key, each in found.items()}
    return {key: each for key, each in kept.items() if each}


def check_data(specs: Iterable[RunSpec], folder: Path) -> None:
    """Read or download every dataset of `specs` once, and check that it has enough images for the validation split.

    Raises RequestError, before any run starts, if a dataset cannot be used.
    """
    from pbt_bench.data.run_data import check_split

    fractions: dict[str, set[float]] = {}
    for spec in specs:
        fractions.setdefault(spec.dataset, set()).add(spec.recipe.validation_fraction)
    for name, values in fractions.items():
        dataset = load(name, folder)
        for fraction in values:
            try:
                check_split(dataset.train, fraction)
            except RequestError as error:
                raise RequestError(f"{name}: {error}") from None


@dataclass(frozen=True)
class Plan:
    """All runs of a study, the existing records, and the missing runs."""

    specs: Sequence[RunSpec]
    records: dict[str, RunRecord]
    missing: Sequence[RunSpec]
    retry_failed: bool = False


def plan(grid: Grid, store: Store, retry_failed: bool = False) -> Plan:
    """Compare the runs of `grid` with the records in `store`; with `retry_failed`, failed runs are missing."""
    specs = grid.runs()
    records = {record.run_id: record for record in store.records({spec.run_id for spec in specs})}
    missing = [
        spec
        for spec in specs
        if (record := records.get(spec.run_id)) is None or (retry_failed and record.status == "failed")
    ]
    return Plan(specs, records, missing, retry_failed)
