"""Check a grid before any run starts, and find its missing runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from pbt_bench.data import datasets, load
from pbt_bench.errors import RequestError
from pbt_bench.models import find
from pbt_bench.pruning.pruners import pruners
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import DENSE, Grid, RunSpec


def check_names(grid: Grid, where: str) -> Grid:
    """Replace aliases in `grid` by the names of their methods. Raises RequestError for an unknown name."""
    try:
        for name in grid.grid.dataset:
            datasets()[name]
        for name in grid.grid.model:
            find(name)
        entries = [pruners()[name] for name in grid.grid.method]
        for entry in entries:
            entry.in_scope(*grid.grid.scope)
        methods = tuple(dict.fromkeys(entry.name for entry in entries))
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None
    return msgspec.structs.replace(grid, grid=msgspec.structs.replace(grid.grid, method=methods))


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

    def methods(self, spec: RunSpec) -> tuple[str, ...]:
        """Return the methods of the missing runs in the group of `spec`, which share its statistics."""
        return self._methods.get(spec.group, ())

    @cached_property
    def _methods(self) -> dict[tuple[object, ...], tuple[str, ...]]:
        found: dict[tuple[object, ...], set[str]] = {}
        for spec in self.missing:
            if spec.method != DENSE:
                found.setdefault(spec.group, set()).add(spec.method)
        return {group: tuple(sorted(names)) for group, names in found.items()}


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
