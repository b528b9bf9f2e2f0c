"""The registries of pruners, statistics and scopes, and the decorators that add to them.

    @statistic(cite="Sun et al. 2024, arXiv:2306.11695")
    def input_norm(task, *, power=2.0):
        ...
        return {name: tensor for name in task.parameters}

    @pruner(cite="Sun et al. 2024, arXiv:2306.11695, Eq. 1")
    def wanda(weight, input_norm):
        return weight.abs() * input_norm

    @scope(cite="Vysogorets and Kempe 2023, arXiv:2107.02306")
    def igq(shapes, density):
        ...
        return {name: share for name in shapes}

A pruner is called once per prunable tensor; its positional arguments name statistics. Keyword-only arguments of pruners
and statistics are options, which a grid sets in `[options.METHOD]`. All three may be in one file of a folder of
PBT_BENCH_METHODS. Importing this module does not import torch.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pbt_bench import registry, shipped
from pbt_bench.constraints import convert
from pbt_bench.errors import RequestError, unknown
from pbt_bench.mask_update_schedules import SCHEDULES
from pbt_bench.pruning.options import Option, checked_values, declared_options, options_of
from pbt_bench.spec import Scoring

if TYPE_CHECKING:
    from torch import Tensor

    from pbt_bench.pruning.task import Tensors

Method = Any  # name or registered pruner, score function, or path of a file with one method
_PRUNING = Path(__file__).parent
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Statistic:
    """A registered statistic: a function of a `Task` and of its options."""

    name: str
    function: Callable[..., Tensors]
    cite: str
    data: bool  # False: independent of the scoring data, and computed on the model as it stands
    per_sparsity: bool  # computed for each sparsity; `task.sparsity` and `task.kept` are set
    trains: bool  # uses `task.train`
    revision: int  # raised when its numbers change on purpose
    options: Mapping[str, Option]
    symbol: str  # LaTeX
    formula: str  # LaTeX, may be ""
    summary: str


@dataclass(frozen=True)
class Scope:
    """A registered rule for the shares of the layers; None for `global`, which has one threshold for all layers."""

    name: str
    function: Callable[[Mapping[str, tuple[int, ...]], float], Mapping[str, Any]] | None
    cite: str
    revision: int
    summary: str


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
    mask_updates: str | None = None  # mask updates that belong to the method; None = those of the run
    original: Mapping[str, Any] = field(default_factory=dict)  # scoring fields and options of its published code
    original_on: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # dataset -> values that differ there
    revision: int = 1  # raised when its numbers change on purpose
    own_options: Mapping[str, Option] = field(default_factory=dict)  # without those of its statistics
    file: Path = Path()  # that defines it
    summary: str = ""

    @property
    def shipped(self) -> bool:
        """True for a method of the project, whose statistics and options the tests check."""
        return self.file.parent == folders()[0]

    @property
    def trains(self) -> bool:
        """True if one of its statistics trains the network, which only a run of a grid can do."""
        return any(statistics()[name].trains for name in self.needs)

    @property
    def options(self) -> dict[str, Option]:
        """All options, those of its statistics included.

        Raises RequestError for an unknown statistic and for two options of one name.
        """
        found = dict(self.own_options)
        if self.mask_updates:
            found |= options_of(SCHEDULES[self.mask_updates], f"mask updates {self.mask_updates!r}")
        for need in self.needs:
            for name, option in statistics()[need].options.items():
                if found.setdefault(name, option) != option:
                    raise RequestError(
                        f"method {self.name!r}: option {name!r} of {found[name].owner} and of {option.owner} differ"
                    )
        return found

    def checked_options(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return the given options, converted to the types of their defaults, without those equal to the default.

        Raises RequestError, which begins with `where`, for an unknown option and an invalid value.
        """
        options = self.options if given or not self.shipped else {}  # statistics import torch
        if given and not options:
            raise RequestError(f"{where}: method {self.name!r} has no options, so no {next(iter(given))!r}")
        return checked_values(options, given, where, f"method {self.name!r}")

    def published(self, dataset: str) -> dict[str, Any]:
        """Return the scoring fields and options of the published code on a dataset."""
        return {**self.original, **self.original_on.get(dataset, {})}

    def check(self) -> None:
        """Raise RequestError for an unknown statistic or scope, or a key of `original` that is no field or option."""
        self.checked_options({}, self.name)
        scopes()[self.scope or "global"]
        if self.mask_updates and self.mask_updates not in SCHEDULES:
            raise unknown("mask_updates value", self.mask_updates, SCHEDULES, str(self.file))
        for dataset in ("", *self.original_on):
            values = self.published(dataset)
            options = {name: value for name, value in values.items() if name not in Scoring.__struct_fields__}
            self.checked_options(options, f"{self.file}: original")

    def bound(self, options: Mapping[str, Any]) -> Pruner:
        """Return this pruner with those of `options` that are its own."""
        own = {name: options[name] for name in self.own_options if name in options}
        return replace(self, function=partial(self.function, **own)) if own else self

    def in_scope(self, *scopes: str) -> str:
        """Return the method's own scope, else the first of `scopes`. Raises RequestError for a scope without effect."""
        if self.scope and scopes != ("global",) and (others := [s for s in scopes if s != self.scope]):
            raise RequestError(
                f"scope = {others[0]!r} changes nothing for method {self.name!r}: its own is {self.scope!r}"
            )
        return self.scope or scopes[0]


_PRUNERS: registry.Registry[Pruner] = registry.Registry("method")
_STATISTICS: registry.Registry[Statistic] = registry.Registry("statistic")
_SCOPES: registry.Registry[Scope] = registry.Registry("scope")
_SCOPES.add(
    "global", Scope("global", None, "the published default", 1, "One threshold for all layers."), f"{__file__}:1"
)


def pruner(
    *,
    cite: str,
    rounds: int = 1,
    regrow: bool = False,
    scope: str | None = None,
    mask_updates: str | None = None,
    aliases: tuple[str, ...] = (),
    revision: int = 1,
    original: Mapping[str, Any] | None = None,
    original_on: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[_Function], _Function]:
    """Register a score function under its own name.

    `cite` names the paper and equation; `rounds` > 1 makes the method iterative; `original` gives the fields of
    `Scoring` and the options that the method's published code uses (for protocol = "original"), and `original_on` those
    that differ on a dataset. `revision` is raised when the numbers of the method change on purpose. Raises RequestError
    if the name or an alias is taken, or for an invalid value in `original`.
    """

    choices = {
        "cite": cite, "rounds": rounds, "regrow": regrow, "scope": scope,
        "mask_updates": mask_updates, "revision": revision,
        "original": dict(original or {}), "original_on": dict(original_on or {}),
    }  # fmt: skip

    def register(function: _Function) -> _Function:
        _PRUNERS.add(function.__name__, _pruner_of(function, **choices), registry.origin(function), aliases)
        return function

    return register


def _pruner_of(function: Callable[..., Tensor], **choices: Any) -> Pruner:
    name, where = function.__name__, registry.origin(function)
    own = declared_options(function, f"method {name!r}", where)
    needs = tuple(argument for argument in inspect.signature(function).parameters if argument not in own)
    if not needs:
        raise RequestError(f"{where}: method {name!r} has no arguments: they name the statistics that it needs")
    entry = Pruner(
        name=name,
        function=function,
        needs=needs,
        own_options=own,
        summary=_summary(function),
        file=Path(function.__code__.co_filename),
        **choices,
    )
    for dataset in ("", *entry.original_on):
        values = entry.published(dataset)
        convert({key: values[key] for key in values if key in Scoring.__struct_fields__}, Scoring, f"{where}: original")
    return entry


def find_pruner(method: Method) -> Pruner:
    """Return the pruner of a name, of a score function, or of a file with one pruner, which is read again.

    Raises RequestError for an unknown name, and for a file with no or several pruners.
    """
    if isinstance(method, Pruner):
        return method
    if callable(method):
        known = [entry for _, entry in pruners().items() if entry.function is method]
        return known[0] if known else _pruner_of(method, cite="")
    if not isinstance(method, Path) and not str(method).endswith(".py"):
        return pruners()[method]
    path = Path(method).resolve()
    found = [entry for entry in read_file(path) if isinstance(entry, Pruner)]
    if len(found) != 1:
        names = ", ".join(entry.name for entry in found) or "none"
        raise RequestError(f"{path}: expected one method, found {len(found)} ({names}): pass the function")
    return found[0]


def read_file(path: Path) -> list[Pruner | Statistic | Scope]:
    """Return all entries of a file, which is read again. Raises RequestError if it does not load."""
    path = path.resolve()
    if path.suffix != ".py" or not path.is_file():
        raise RequestError(f"{path} is not a Python file")
    statistics()
    tables = (_PRUNERS, _STATISTICS, _SCOPES)
    for table in tables:
        table.remove_from(path)
    registry.load_file(path, "pbt_bench_methods")
    return [entry for table in tables for entry in table.entries_of(path)]


def statistic(
    *,
    cite: str,
    data: bool = True,
    per_sparsity: bool = False,
    trains: bool = False,
    revision: int = 1,
    symbol: str = "",
    formula: str = "",
) -> Callable[[_Function], _Function]:
    r"""Register a function of a `Task`, and of its options, as the statistic of its own name.

    The function returns a tensor for every prunable weight tensor, of that tensor's shape, by parameter name.
    Statistics with `data=False` do not depend on the scoring data and see the model as it stands; for the others its
    batch normalisation is first put into the mode of `scoring.batchnorm`. With `per_sparsity=True` it is computed for
    each sparsity, and with `trains=True` it can call `task.train`. `symbol` and `formula` are LaTeX for the
    documentation, in which a bar is written `\vert`. Raises RequestError if the name is taken.
    """

    def register(function: _Function) -> _Function:
        name, where = function.__name__, registry.origin(function)
        options = declared_options(function, f"statistic {name!r}", where)
        plain = r"\mathrm{" + name.replace("_", r"\_") + "}"
        entry = Statistic(
            name,
            function,
            cite,
            data,
            per_sparsity,
            trains,
            revision,
            options,
            symbol or plain,
            formula,
            _summary(function),
        )
        _STATISTICS.add(name, entry, where)
        return function

    return register


def scope(*, cite: str, revision: int = 1) -> Callable[[_Function], _Function]:
    """Register a function of (layer name -> shape, density) as the scope of its own name.

    It returns a number per layer that is not negative: the layer's share of the total density. The shares are scaled
    to the exact number of kept weights, and no layer gets more weights than it has. Raises RequestError if the name is
    taken.
    """

    def register(function: _Function) -> _Function:
        name = function.__name__
        _SCOPES.add(name, Scope(name, function, cite, revision, _summary(function)), registry.origin(function))
        return function

    return register


def _summary(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").split("\n", 1)[0]


def folders() -> list[Path]:
    """Return the folders that methods are read from: `methods/`, then those of PBT_BENCH_METHODS."""
    return [shipped.folder(shipped.METHODS), *registry.extra_folders("PBT_BENCH_METHODS")]


@cache
def pruners() -> registry.Registry[Pruner]:
    """Return all methods; the folders are read once. Raises RequestError naming a file that does not load."""
    for each in (_PRUNERS, _STATISTICS, _SCOPES):
        each.keep_from(_PRUNING)
    for folder in folders():
        registry.load_folder(folder, "pbt_bench_methods")
    if not list(_PRUNERS):
        raise RequestError(f"no methods found in {', '.join(map(str, folders()))}")
    return _PRUNERS


def statistics() -> registry.Registry[Statistic]:
    """Return all statistics: those of the package, which import torch, and those in the files of methods."""
    pruners()
    package = import_module("pbt_bench.pruning.statistics")
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    return _STATISTICS


def scopes() -> registry.Registry[Scope]:
    """Return all scopes: those of the package and those in the files of methods."""
    pruners()
    import_module("pbt_bench.pruning.scopes")
    return _SCOPES


def method_revisions(name: str) -> dict[str, int | str]:
    """Return the revisions that are not 1 of a method and, outside the project, of its statistics and own scope."""
    entry = pruners()[name]
    found = {f"method {entry.name}": registry.revision(pruners().origin(name), entry.revision)}
    if not entry.shipped:
        for need in entry.needs:
            found[f"statistic {need}"] = registry.revision(statistics().origin(need), statistics()[need].revision)
    if entry.scope:
        found |= scope_revisions(entry.scope)
    return {key: value for key, value in found.items() if value != 1}


def scope_revisions(name: str) -> dict[str, int | str]:
    """Return the revision of a scope, unless it is 1."""
    found = registry.revision(scopes().origin(name), scopes()[name].revision)
    return {} if found == 1 else {f"scope {name}": found}
