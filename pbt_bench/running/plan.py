"""Check a grid before any run starts, and find its missing runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pbt_bench.data import dataset_revision, datasets, load
from pbt_bench.errors import RequestError, counted, shortened
from pbt_bench.identity import ORIGINAL_REVISION, TRAINING_REVISION
from pbt_bench.mask_update_schedules import SCHEDULES, schedule
from pbt_bench.models import build, check_pretrained, find, model_revision, models
from pbt_bench.pattern_names import parse
from pbt_bench.pruning.options import checked_values, options_of
from pbt_bench.pruning.plugins import Pruner, method_revisions, pruners, scope_revisions, scopes
from pbt_bench.running.matching import find_others
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store, decoded
from pbt_bench.spec import Grid, Revision, Rewind, RunSpec, Value

_MOST_FAILED = 5  # failed runs whose reason `run` prints


def check_names(grid: Grid, where: str, store: Store | None = None) -> Grid:
    """Replace aliases in `grid` by the names of their methods and models, and leave out options at their default.

    With a `store`, names are also valid that only its records have: their revisions and options are those of the
    newest record. Raises RequestError for an unknown name, and for an option that is unknown or has an invalid value.
    Statistics, which import torch, are loaded only for options and for methods from outside the project.
    """
    try:
        gone = _gone(grid, store) if store else Gone()
        for name in grid.grid.dataset:
            if f"dataset {name}" not in gone.revisions:
                datasets()[name]
        for name in grid.grid.model:
            if f"model {name}" not in gone.revisions:
                find(name)
        if given := [name for name in grid.grid.init if name.startswith("pretrained")]:
            if "reinit" in grid.grid.sanity:
                raise RequestError(f"sanity = 'reinit' cannot be combined with init = {given[0]!r}: nothing is drawn")
            for name in grid.grid.model if "pretrained" in given else ():
                check_pretrained(name)
        names_of_models = tuple(dict.fromkeys(map(models().name, grid.grid.model)))
        grid = msgspec.structs.replace(grid, grid=msgspec.structs.replace(grid.grid, model=names_of_models))
        for name in grid.grid.scope:
            if f"scope {name}" not in gone.revisions:
                scopes()[name]
        for name in grid.grid.pattern:
            pattern = parse(name)
            if pattern and not any(map(pattern.allows, grid.grid.sparsity)):
                pattern.check(grid.grid.sparsity[0])
            if pattern and grid.grid.scope != ("global",):
                raise RequestError(f"scope = {grid.grid.scope[0]!r} cannot be combined with pattern = {name!r}")
            if pattern and "shuffle" in grid.grid.sanity:
                raise RequestError(f"sanity = 'shuffle' cannot be combined with pattern = {name!r}: it is lost")
        entries = [pruners()[name] for name in grid.grid.method if f"method {name}" not in gone.revisions]
        for entry in entries:
            entry.in_scope(*grid.grid.scope)
            _check_mask_updates(entry, grid)
            if entry.scope and (patterns := [name for name in grid.grid.pattern if parse(name)]):
                raise RequestError(
                    f"method {entry.name!r} has the scope {entry.scope!r}, which cannot be combined with "
                    f"pattern = {patterns[0]!r}"
                )
            if not entry.shipped:
                entry.check()
        names = {
            name: name if f"method {name}" in gone.revisions else pruners()[name].name for name in grid.grid.method
        }
        options = _options(grid, set(names.values()), gone)
        _check_rewind(grid, options, gone)
        _check_warmup(grid)
        revisions = _revisions(grid, entries, gone)
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None
    axes = msgspec.structs.replace(grid.grid, method=tuple(dict.fromkeys(names.values())))
    return msgspec.structs.replace(grid, grid=axes, options=options, revisions=revisions)


def _check_mask_updates(entry: Pruner, grid: Grid) -> None:
    """Raise RequestError for mask updates that cannot be combined with a method or with other axes of the grid."""
    axes = grid.grid
    given = [name for name in axes.mask_updates if name != "none"]
    own = entry.mask_updates
    if own and given:
        raise RequestError(
            f"mask_updates = {given[0]!r} cannot be combined with method {entry.name!r}, which has its own: {own!r}"
        )
    for name in [own] if own else given:
        if patterns := [pattern for pattern in axes.pattern if parse(pattern)]:
            raise RequestError(f"mask updates {name!r} cannot be combined with pattern = {patterns[0]!r}: it is lost")
        if name != "gmp":
            continue
        if not own and entry.name != "magnitude":
            raise RequestError(
                f"mask_updates = 'gmp' cannot be combined with method {entry.name!r}: it starts with a dense network, "
                "and prunes by magnitude"
            )
        if lost := [sanity for sanity in axes.sanity if sanity in ("shuffle", "invert")]:
            raise RequestError(f"sanity = {lost[0]!r} changes nothing for mask updates 'gmp': they start dense")
        if not all(grid.varied.get("recipe.epochs", (grid.recipe.epochs,))):
            raise RequestError("mask updates 'gmp' prune during training, which recipe.epochs = 0 leaves out")


def _options(grid: Grid, names: Collection[str], gone: Gone) -> dict[str, tuple[dict[str, Any], ...]]:
    """Return the checked option sets of each method."""
    found = {}
    for given, sets in grid.options.items():
        if f"method {given}" in gone.revisions:
            found[given] = tuple(gone.without_defaults(given, values) for values in sets)
            continue
        if given in grid.grid.mask_updates and given != "none":
            owner = f"mask updates {given!r}"
            options = options_of(SCHEDULES[given], owner)
            found[given] = tuple(checked_values(options, values, f"options.{given}", owner) for values in sets)
            continue
        name = pruners()[given].name
        if name not in names:
            raise RequestError(f"options.{given}: {name!r} is not a method of this grid")
        found[name] = tuple(pruners()[name].checked_options(values, f"options.{given}") for values in sets)
    for name in SCHEDULES.keys() & found.keys():
        for values in found[name]:
            try:
                schedule(name, values)
            except RequestError as error:
                raise RequestError(f"options.{name}: {error}") from None
    return found


def _check_rewind(grid: Grid, options: Mapping[str, Sequence[Mapping[str, Any]]], gone: Gone) -> None:
    """Raise RequestError if an option of the type `Rewind` contradicts the axis `rewind` or the end of the recipe."""
    epochs = min(grid.varied.get("recipe.epochs", (grid.recipe.epochs,)))
    for method, sets in options.items():
        given = [each for values in sets for each in values.items()]
        for name, value in given if f"method {method}" not in gone.revisions else ():
            if pruners()[method].options[name].type is not Rewind:
                continue
            where = f"options.{method}: {name} = {value!r}"
            if True in grid.grid.rewind and set(grid.grid.warmup) != {"none"}:
                raise RequestError(
                    f"{where} cannot be combined with the axis rewind = true, which rewinds to the initial weights"
                )
            count, _, unit = value.partition(" ")
            if unit == "epochs" and int(count) >= epochs:
                raise RequestError(f"{where} must be before the end of the recipe, which has {epochs} epochs")


def _check_warmup(grid: Grid) -> None:
    """Raise RequestError if a warm-up is longer than a cosine schedule: the learning rate would rise again."""
    epochs = min(grid.varied.get("recipe.epochs", (grid.recipe.epochs,)))
    cosine = "cosine" in grid.varied.get("recipe.schedule", (grid.recipe.schedule,))
    for value in grid.grid.warmup if cosine else ():
        count, _, unit = value.partition(" ")
        if unit == "epochs" and int(count) > epochs:
            raise RequestError(
                f"grid.warmup = {value!r} is longer than the cosine schedule of the recipe, which has {epochs} epochs; "
                "use more epochs, or schedule = 'constant'"
            )


@dataclass(frozen=True)
class Gone:
    """Names whose file is gone, such as "method NAME", with the revisions of the code in their newest record."""

    revisions: dict[str, dict[str, Revision]] = field(default_factory=dict)
    options: dict[str, list[dict[str, Value]]] = field(default_factory=dict)  # method -> those of its records

    def without_defaults(self, method: str, options: dict[str, Value]) -> dict[str, Value]:
        """Leave out each option whose value no record has while others lack the option: it is the default."""
        sets = self.options[method]
        return {
            name: value
            for name, value in options.items()
            if any(each.get(name) == value for each in sets) or all(name in each for each in sets)
        }


def _gone(grid: Grid, store: Store) -> Gone:
    """Find the unknown names of a grid in the records of `store`, which are read only if there are any."""
    known = {
        "dataset": datasets().__contains__,
        "method": pruners().__contains__,
        "scope": scopes().__contains__,
        "model": _is_model,
    }
    unknown = {(axis, name) for axis, has in known.items() for name in getattr(grid.grid, axis) if not has(name)}
    found, newest = Gone(), dict[str, str]()
    for name in sorted(store.names()) if unknown else ():
        try:
            record = decoded(store.content(name), name)
        except (OSError, ValueError, RecursionError):
            continue
        spec, started = record.spec, str(record.environment.get("started", ""))
        for axis, value in unknown & {(axis, getattr(spec, axis)) for axis in known}:
            if axis == "method":
                found.options.setdefault(value, []).append(spec.options)
            if started >= newest.get(f"{axis} {value}", ""):
                newest[f"{axis} {value}"] = started
                found.revisions[f"{axis} {value}"] = _of_axis(axis, spec)
    return found


def _is_model(name: str) -> bool:
    try:
        return bool(find(name))
    except RequestError:
        return False


def _of_axis(axis: str, spec: RunSpec) -> dict[str, Revision]:
    """Return the revisions of a run that come from the value of one axis; a method has its statistics and own scope."""
    others = {"training", "original", *(f"{name} {getattr(spec, name)}" for name in ("dataset", "model", "scope"))}
    if axis == "method":
        return {name: value for name, value in spec.revisions.items() if name not in others}
    name = f"{axis} {getattr(spec, axis)}"
    return {name: spec.revisions[name]} if name in spec.revisions else {}


def _revisions(grid: Grid, entries: Sequence[Pruner], gone: Gone) -> dict[str, dict[str, Revision]]:
    """Return the revisions that are not 1 of the training and of the names in a grid."""
    found: dict[str, dict[str, Revision]] = {
        "training": {"training": TRAINING_REVISION},
        "protocol original": {"original": ORIGINAL_REVISION},
    }
    own = {"dataset": dataset_revision, "model": model_revision}
    for axis, revision in own.items():
        keys = [(f"{axis} {name}", name) for name in getattr(grid.grid, axis)]
        found |= {key: {key: revision(name)} for key, name in keys if key not in gone.revisions}
    found |= {f"method {entry.name}": method_revisions(entry.name) for entry in entries}
    found |= {
        f"scope {name}": scope_revisions(name) for name in grid.grid.scope if f"scope {name}" not in gone.revisions
    }
    found |= gone.revisions
    kept = {key: {name: value for name, value in each.items() if value != 1} for key, each in found.items()}
    return {key: each for key, each in kept.items() if each}


def check_data(specs: Iterable[RunSpec], folder: Path) -> None:
    """Read or download every dataset of `specs` once, and check that it has enough images to be divided.

    Load all pretrained weights once. Raises RequestError, before any run starts, if data or weights cannot be used.
    """
    from pbt_bench.data.run_data import check_split

    splits: dict[str, set[tuple[float, int | None]]] = {}
    pretrained: dict[str, set[tuple[str, str]]] = {}
    for spec in specs:
        parts = (spec.recipe.validation_fraction, spec.recipe.training_images)
        splits.setdefault(spec.dataset, set()).add(parts)
        if spec.init.startswith("pretrained"):
            pretrained.setdefault(spec.dataset, set()).add((spec.model, spec.init))
    for name, values in splits.items():
        dataset = load(name, folder)
        for parts in values:
            try:
                check_split(dataset.train, *parts)
            except RequestError as error:
                raise RequestError(f"{name}: {error}") from None
        for model, init in sorted(pretrained.get(name, ())):
            build(model, dataset.channels, dataset.classes, 0, init, dataset.size, folder)


@dataclass(frozen=True)
class Plan:
    """All runs of a study, the existing records, and the missing runs."""

    specs: Sequence[RunSpec]
    records: dict[str, RunRecord]
    missing: Sequence[RunSpec]
    retry_failed: bool = False
    superseded: int = 0  # missing runs with a record of another revision
    newer: tuple[str, ...] = ()  # runs with a record of a newer version, which is kept
    odd: tuple[str, ...] = ()  # files that are no records, or cannot be read, and why

    def notes(self) -> list[str]:
        """Return what a user should know about records before the runs start, one line each."""
        found = [f"warning: {why}" for why in self.odd]
        if self.superseded:
            found.append(f"note: {counted(self.superseded, 'record')} superseded by another revision of the code")
        if self.newer:
            ids = shortened(self.newer)
            found.append(f"note: {counted(len(self.newer), 'record')} written by a newer pbt-bench, and kept: {ids}")
        failed = [] if self.retry_failed else [each for each in self.records.values() if each.status == "failed"]
        found += [f"failed: {each.spec.label} ({each.run_id}): {each.error_line}" for each in failed[:_MOST_FAILED]]
        if failed:
            found.append(f"{len(failed)} failed (--retry-failed runs them again)")
        return found


def plan(grid: Grid, store: Store, retry_failed: bool = False) -> Plan:
    """Compare the runs of `grid` with the records in `store`; with `retry_failed`, failed runs are missing.

    A run with a superseded or damaged record is missing; a run with a migrated record, one of a newer version, or a
    file that cannot be read, is not.
    """
    specs = {spec.run_id: spec for spec in grid.runs()}
    others = find_others(store, specs)
    present = store.names() | store.migrated.keys()
    looked = {run_id: store.lookup(run_id) for run_id in specs if run_id in present}
    records = {run_id: found.record for run_id, found in looked.items() if found.record}
    kept = {run_id for run_id, found in looked.items() if found.state in ("newer", "unreadable")}
    missing = [
        spec
        for run_id, spec in specs.items()
        if run_id not in kept
        and ((record := records.get(run_id)) is None or (retry_failed and record.status == "failed"))
    ]
    newer = tuple(sorted(run_id for run_id, found in looked.items() if found.state == "newer"))
    odd = tuple(found.why for found in looked.values() if found.state in ("damaged", "unreadable"))
    return Plan(list(specs.values()), records, missing, retry_failed, len(others.superseded), newer, odd)
