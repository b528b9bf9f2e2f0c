"""Claim files: a published statement, its source, the studies that test it, and the tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from pbt_bench import shipped
from pbt_bench.constraints import Checked, at_least, convert, one_of, read_toml
from pbt_bench.errors import RequestError, unknown
from pbt_bench.running.record import MaskMetrics, Metrics, Pruning
from pbt_bench.spec import FolderName, Recipe, RunSpec, Scoring

OVERLAP = "mask_overlap"  # the metric of two runs: the Jaccard index of their masks
ACCURACIES = ("test_accuracy", "test_accuracy_at_best_validation", "best_test_accuracy_over_epochs")
_DERIVED = ("smallest_layer_density", "dead_weight_share", OVERLAP)  # metrics that are computed from a record
_NO_NUMBERS = ("weights_digest", "mask_digest", "initial_mask_digest", "layers", "notes", "mask_metrics", "sparsity")
_MOST_NAMED = 4  # methods of a condition that a text names
_OF_TWO = ("greater", "equal", "less")
_OF_ONE = ("above", "below")
_SPEC_COLUMNS = tuple(
    name for name in RunSpec.__struct_fields__ if name not in ("recipe", "scoring", "options", "revisions")
)
_CLAIM_COLUMNS = (
    *_SPEC_COLUMNS,
    *(f"recipe.{name}" for name in Recipe.__struct_fields__),
    *(f"scoring.{name}" for name in Scoring.__struct_fields__),
)
CLAIM_METRICS = (
    *(name for kind in (Metrics, Pruning, MaskMetrics) for name in kind.__struct_fields__ if name not in _NO_NUMBERS),
    *_DERIVED,
)

Condition = Mapping[str, Any]  # column -> a value, a list of values, or {minimum, maximum}


@dataclass(frozen=True)
class Selection:
    """Runs by the values of their columns."""

    conditions: Condition

    @property
    def label(self) -> str:
        """The conditions as a text, for example `snip, sanity shuffle`."""
        parts = [_text(value) if name == "method" else f"{name} {_text(value)}" for name, value in self.ordered]
        return ", ".join(parts)

    @property
    def ordered(self) -> list[tuple[str, Any]]:
        """The conditions, that of the method first."""
        return sorted(self.conditions.items(), key=lambda item: item[0] != "method")


@dataclass(frozen=True)
class BestOf:
    """The selection with the highest mean of the metric over the other seeds, chosen in each cell."""

    choices: tuple[Selection, ...]

    @property
    def label(self) -> str:
        """The labels of all choices."""
        return f"best of {', '.join(choice.label for choice in self.choices)}"

    @property
    def conditions(self) -> Condition:
        """The columns of the choices, with all their values."""
        names = dict.fromkeys(name for choice in self.choices for name in choice.conditions)
        return {name: [choice.conditions.get(name) for choice in self.choices] for name in names}


Side = Selection | BestOf


@dataclass(frozen=True)
class Question:
    """One comparison of a claim: of two sides, of one side with a number, or of two predictors of a metric."""

    metric: str
    expect: str
    bound: float  # the margin, or the number with which one side is compared
    left: Side | None = None
    right: Side | None = None
    correlation: tuple[str, ...] = ()  # one or two metrics, whose rank correlations with `metric` are compared
    where: Condition = field(default_factory=dict)

    @property
    def sides(self) -> list[Side]:
        """The sides that are given."""
        return [side for side in (self.left, self.right) if side is not None]

    @property
    def labels(self) -> list[str]:
        """The names of what is compared."""
        return list(self.correlation) or [side.label for side in self.sides]

    @property
    def accuracy(self) -> bool:
        """True if the estimate is of test accuracies, as papers print them."""
        return self.metric in ACCURACIES and not self.correlation

    @property
    def percent(self) -> bool:
        """True if pages show the estimate in percent, or its differences in percentage points."""
        return self.metric.endswith("_accuracy") and not self.correlation

    @property
    def subject(self) -> str:
        """The estimated quantity, for example `test accuracy: fts - snip`."""
        metric = self.metric.replace("_", " ")
        if self.correlation:
            return f"rank correlation with {metric}: {' - '.join(self.correlation)}"
        return f"{metric}: {(' and ' if self.metric == OVERLAP else ' - ').join(self.labels)}"

    @property
    def range(self) -> str:
        """The conditions on both sides, for example `sparsity 0.98 and more`."""
        return ", ".join(
            f"over {len(value)} methods"
            if name == "method" and isinstance(value, list) and len(value) > _MOST_NAMED
            else f"{name} {_text(value)}"
            for name, value in self.where.items()
        )


class ClaimTest(Checked, frozen=True, kw_only=True):
    """A table `[[test]]` of a claim file."""

    metric: str = "test_accuracy"
    compare: list[Any] = msgspec.field(default_factory=list)  # two sides: labels, tables of columns, or lists of them
    method: str | dict[str, Any] | list[Any] | None = None  # the one side of a comparison with `value`
    correlation: list[str] = msgspec.field(default_factory=list)
    where: dict[str, Any] = msgspec.field(default_factory=dict)
    for_each: str = ""  # a column: the test is repeated for each of its values in `where`
    expect: Annotated[str, one_of(*_OF_TWO, *_OF_ONE)]
    margin: float = 0.0
    value: float | None = None

    def questions(self, where: str) -> list[Question]:
        """Return the comparisons of this test. Raises RequestError that begins with `where`."""
        self._check(where)
        given = dict(self.where)
        ranges: list[Condition] = [given]
        if self.for_each:
            values = given.get(self.for_each)
            if not isinstance(values, list) or not values:
                raise RequestError(f"{where}: for_each = {self.for_each!r} needs a list of its values in where")
            ranges = [given | {self.for_each: value} for value in values]
        bound = self.margin if self.value is None else self.value
        rest: dict[str, Any] = {
            "metric": self.metric,
            "expect": self.expect,
            "bound": bound,
            "correlation": tuple(self.correlation),
        }
        sides = self.compare or ([] if self.method is None else [self.method])
        lists = [_sides(side, where) for side in sides]
        pairs: list[Sequence[Side | None]] = [(*pair, None, None)[:2] for pair in itertools.product(*lists)]
        return [Question(left=left, right=right, where=range_, **rest) for range_ in ranges for left, right in pairs]

    def _check(self, where: str) -> None:
        for metric in (self.metric, *(name.removeprefix("-") for name in self.correlation)):
            if metric not in CLAIM_METRICS:
                raise unknown("metric", metric, CLAIM_METRICS, where)
        _check_columns(self.where, where)
        given = [name for name in ("compare", "method", "correlation") if getattr(self, name)]
        if len(given) != 1:
            raise RequestError(f"{where}: give exactly one of compare, method and correlation, not {given or 'none'}")
        if self.compare and len(self.compare) != 2:
            raise RequestError(f"{where}: compare has {len(self.compare)} sides and needs 2")
        if len(self.correlation) > 2:
            raise RequestError(f"{where}: correlation has {len(self.correlation)} metrics and needs 1 or 2")
        of_one = self.metric == OVERLAP or self.method is not None or len(self.correlation) == 1
        if self.metric == OVERLAP and not self.compare:
            raise RequestError(f"{where}: metric = {OVERLAP!r} needs compare: it is of two masks")
        if self.expect not in (valid := _OF_ONE if of_one else _OF_TWO):
            raise RequestError(f"{where}: expect = {self.expect!r} must be {' or '.join(map(repr, valid))} here")
        if (self.value is not None) != of_one:
            needs = "needs value, a number" if of_one else "has no value; write margin"
            raise RequestError(f"{where}: expect = {self.expect!r} {needs}")
        if of_one and self.margin:
            raise RequestError(f"{where}: expect = {self.expect!r} has no margin; write value")
        if self.expect == "equal" and not self.margin > 0:
            raise RequestError(f"{where}: expect = 'equal' needs a margin above 0")


class _ClaimFile(Checked, frozen=True, kw_only=True):
    """The fields of a claim file."""

    statement: str
    source: str
    study: str | list[str]
    scale: str
    test: list[ClaimTest]
    mini: str | list[str] = ""
    note: str = ""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A published statement and its tests."""

    name: str
    statement: str
    source: str  # with section or table
    scale: str  # the limits of the verdict, in one sentence
    studies: tuple[str, ...]
    mini: tuple[str, ...]  # small versions of the studies
    note: str
    questions: tuple[Question, ...]


def claims_folder(given: Path | None = None) -> Path:
    """Return the folder `given`, else `claims` if it exists, else that of the shipped claims."""
    own = given or Path(shipped.CLAIMS.folder)
    return own if given or own.is_dir() else shipped.folder(shipped.CLAIMS)


def load_claims(folder: Path) -> list[Claim]:
    """Read every claim file of `folder`, in the order of their names.

    Raises RequestError, one line with the file, the value and the nearest valid one.
    """
    files = sorted(folder.glob("*.toml"))
    if not files:
        raise RequestError(f"{folder}: no claim files there (expected *.toml)")
    return [load_claim(path) for path in files]


def load_claim(path: Path) -> Claim:
    """Read one claim file. Raises RequestError, one line with the file, the value and the nearest valid one."""
    table = read_toml(path)
    if isinstance(tests := table.get("test"), list):
        for number, test in enumerate(tests, 1):
            if not isinstance(test, dict):
                continue
            convert(test, ClaimTest, f"{path}: test {number}")
    found = convert(table, _ClaimFile, str(path))
    questions = [each.questions(f"{path}: test {number}") for number, each in enumerate(found.test, 1)]
    if not questions:
        raise RequestError(f"{path}: a claim needs at least one [[test]]")
    return Claim(
        name=path.stem,
        statement=found.statement,
        source=found.source,
        scale=found.scale,
        studies=_names(found.study, path),
        mini=_names(found.mini, path),
        note=found.note,
        questions=tuple(itertools.chain.from_iterable(questions)),
    )


def selected(claims: Iterable[Claim], names: Sequence[str]) -> list[str]:
    """Return `names`, all without any. Raises RequestError for a name that no claim has."""
    valid = [claim.name for claim in claims]
    for name in names:
        if name not in valid:
            raise unknown("claim", name, valid)
    return list(names) or valid


class _Study(Checked, frozen=True):
    name: FolderName


def _names(given: str | list[str], path: Path) -> tuple[str, ...]:
    names = ([given] if given else []) if isinstance(given, str) else given
    for name in names:
        convert({"name": name}, _Study, f"{path}: study")
    return tuple(names)


def _sides(given: Any, where: str) -> list[Side]:
    """Return the sides of a list, or the one side that `given` is."""
    if isinstance(given, list):
        if not given:
            raise RequestError(f"{where}: a list of sides is empty")
        return [side for each in given for side in _sides(each, where)]
    if isinstance(given, str):
        return [Selection({"method": given})]
    if not isinstance(given, dict) or not given:
        raise RequestError(f"{where}: {given!r} is neither the label of a method nor a table of columns")
    if "best_of" not in given:
        _check_columns(given, where)
        if both := [name for name in given if name in ("dataset", "model", "seed")]:
            raise RequestError(f"{where}: {both[0]} is of both sides: write it in where")
        return [Selection(given)]
    if len(given) > 1:
        raise RequestError(
            f"{where}: best_of cannot be combined with {', '.join(name for name in given if name != 'best_of')}"
        )
    choices = _sides(given["best_of"], where)
    if len(choices) < 2 or not all(isinstance(choice, Selection) for choice in choices):
        raise RequestError(f"{where}: best_of needs a list of two or more labels or tables of columns")
    return [BestOf(tuple(choice for choice in choices if isinstance(choice, Selection)))]


class _Range(Checked, frozen=True, kw_only=True):
    """The table of a condition on a number."""

    minimum: Annotated[float, at_least(0)] | None = None
    maximum: Annotated[float, at_least(0)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minimum is None and self.maximum is None:
            raise RequestError("a table of a condition needs minimum or maximum")


def _check_columns(conditions: Condition, where: str) -> None:
    for name, value in conditions.items():
        if name not in _CLAIM_COLUMNS and not name.startswith("options."):
            raise unknown("column", name, _CLAIM_COLUMNS, where)
        if value == []:
            raise RequestError(f"{where}: {name} is an empty list")
        if isinstance(value, dict):
            convert(value, _Range, f"{where}: {name}")


def _text(value: Any) -> str:
    return " or ".join(_texts(value))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        low, high = value.get("minimum"), value.get("maximum")
        if low is not None and high is not None:
            yield f"from {low:g} to {high:g}"
        else:
            yield f"{low:g} and more" if low is not None else f"up to {high:g}"
    elif isinstance(value, list):
        yield from (text for each in value for text in _texts(each))
    else:
        yield f"{value:g}" if isinstance(value, float) else str(value)
