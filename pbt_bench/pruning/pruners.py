"""The registry of pruners: functions whose arguments name the statistics that they need.

    @pruner(cite="Lee et al. 2019, arXiv:1810.02340, Eq. 6")
    def snip(weight, gradient):
        return (weight * gradient).abs()

It is called once per prunable tensor, with tensors of that tensor's shape, and returns a score per weight
in the same shape. Higher scores are kept. Keyword-only arguments are fields of `Scoring` (`*, signed=False`) and
get their values from the scoring in force.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbt_bench import registry
from pbt_bench.constraints import convert
from pbt_bench.errors import RequestError, unknown
from pbt_bench.spec import Scoring

if TYPE_CHECKING:
    from torch import Tensor

_PRUNERS: registry.Registry[Pruner]


@dataclass(frozen=True)
class Pruner:
    """A registered method: its formula and its fixed choices."""

    name: str
    function: Callable[..., Tensor]
    needs: tuple[str, ...]  # names of statistics, the positional arguments in their order
    cite: str
    rounds: int = 1  # 1 = one shot; n = n rounds of score and prune, density falling exponentially
    regrow: bool = False  # pruned weights may return in a later round
    scope: str | None = None  # a scope that belongs to the method; None = the run's scope
    original: Mapping[str, Any] = field(default_factory=dict)  # fields of Scoring in its published code
    original_on: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # dataset -> fields that differ there
    options: tuple[str, ...] = ()  # fields of Scoring, the keyword-only arguments
    summary: str = ""

    def bound(self, scoring: Scoring) -> Pruner:
        """Return this pruner with its options taken from `scoring`."""
        options = {name: getattr(scoring, name) for name in self.options}
        return replace(self, function=partial(self.function, **options), options=()) if options else self

    def in_scope(self, *scopes: str) -> str:
        """Return the method's own scope, else the first of `scopes`. Raises RequestError for a scope without effect."""
        if self.scope and scopes != ("global",) and (others := [s for s in scopes if s != self.scope]):
            raise RequestError(
                f"scope = {others[0]!r} changes nothing for method {self.name!r}: its own is {self.scope!r}"
            )
        return self.scope or scopes[0]


_PRUNERS = registry.Registry("method")


def pruner(
    *,
    cite: str,
    rounds: int = 1,
    regrow: bool = False,
    scope: str | None = None,
    aliases: tuple[str, ...] = (),
    original: Mapping[str, Any] | None = None,
    original_on: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a score function under its own name.

    `cite` names the paper and equation; `rounds` > 1 makes the method iterative; `original` gives the
    fields of `Scoring` that the method's published code uses (for protocol = "original"), and `original_on` those that
    differ on a dataset.
    Raises RequestError if the name or an alias is taken, or for what is no field or value of `Scoring`.
    """

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        where = registry.origin(function)
        arguments = inspect.signature(function).parameters.values()
        options = tuple(argument.name for argument in arguments if argument.kind == argument.KEYWORD_ONLY)
        for name in options:
            if name not in Scoring.__struct_fields__:
                raise unknown("scoring field", name, Scoring.__struct_fields__, where)
        for fields in ({}, *(original_on or {}).values()):
            convert({**(original or {}), **fields}, Scoring, f"{where}: original")
        entry = Pruner(
            name=function.__name__,
            function=function,
            needs=tuple(argument.name for argument in arguments if argument.name not in options),
            options=options,
            cite=cite,
            rounds=rounds,
            regrow=regrow,
            scope=scope,
            original=dict(original or {}),
            original_on=dict(original_on or {}),
            summary=(inspect.getdoc(function) or "").split("\n", 1)[0],
        )
        _PRUNERS.add(entry.name, entry, where, aliases)
        return function

    return register


def folders() -> list[Path]:
    """Return the folders that methods are read from: `methods/`, then those of PBT_BENCH_METHODS."""
    package = Path(__file__).parents[1]
    own = package / "methods"  # in an installed wheel
    return [own if own.is_dir() else package.parent / "methods", *registry.extra_folders("PBT_BENCH_METHODS")]


@cache
def pruners() -> registry.Registry[Pruner]:
    """Return all methods; the folders are read once. Raises RequestError naming a file that does not load."""
    _PRUNERS.clear()
    for folder in folders():
        registry.load_folder(folder, "pbt_bench_methods")
    if not list(_PRUNERS):
        raise RequestError(f"no methods found in {', '.join(map(str, folders()))}")
    return _PRUNERS
