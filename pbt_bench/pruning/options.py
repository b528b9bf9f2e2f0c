"""Options of pruners and statistics: their keyword-only arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import msgspec

from pbt_bench.constraints import annotated, fields, shown_value, type_words
from pbt_bench.errors import RequestError, unknown

Value = bool | int | float | str


@dataclass(frozen=True)
class Option:
    """A keyword-only argument with its default; `type` is its annotation, or the type of the default."""

    name: str
    default: Any
    type: Any
    owner: str = field(compare=False)  # "method 'fts'" or "statistic 'hessian_diagonal'"

    def __str__(self) -> str:
        value = str(self.default).lower() if isinstance(self.default, bool) else self.default
        return f"{self.name} = {'none' if value is None else value}"

    def checked(self, value: object, where: str) -> Any:
        """Convert `value` to the type of this option. Raises RequestError, beginning with `where`, if it is invalid."""
        try:
            converted = msgspec.convert(value, self.type)
        except msgspec.ValidationError as error:
            words = f"{shown_value(value)} {type_words(str(error))}"
            raise RequestError(f"{where}: option {self.name!r} of {self.owner} = {words}") from None
        if isinstance(converted, float) and not isfinite(converted):
            raise RequestError(f"{where}: option {self.name!r} of {self.owner} = {value!r} must be finite")
        for kind, constraint in annotated(self.type):
            if constraint and isinstance(converted, kind) and not constraint.holds(converted):
                raise RequestError(f"{where}: {constraint.error(self.name, value)}")
        return converted


def options_of(struct: type[msgspec.Struct], owner: str) -> dict[str, Option]:
    """Return the fields of `struct`, which all have a default, as options."""
    return {field.name: Option(field.name, field.default, field.type, owner) for field in fields(struct)}


def checked_values(options: Mapping[str, Option], given: Mapping[str, Any], where: str, owner: str) -> dict[str, Any]:
    """Return the given options, converted to the types of their defaults, without those equal to the default.

    `owner` has the options, for example "method 'fts'". Raises RequestError, which begins with `where`, for an unknown
    option and an invalid value.
    """
    for name in given:
        if name not in options:
            raise unknown("option", name, options, f"{where}: {owner}")
    values = {name: options[name].checked(value, where) for name, value in sorted(given.items())}
    return {name: value for name, value in values.items() if value != options[name].default}


def declared_options(function: Callable[..., Any], owner: str, where: str) -> dict[str, Option]:
    """Return the options of `function` by name. Raises RequestError for one without a default or of no plain type."""
    found = {}
    for argument in inspect.signature(function).parameters.values():
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            raise RequestError(f"{where}: {owner} has the argument *{argument.name}: name every argument")
        if argument.kind != argument.KEYWORD_ONLY:
            continue
        name, default = argument.name, argument.default
        if not isinstance(default, Value | None):
            raise RequestError(f"{where}: option {name!r} of {owner} needs a default: a number, a string or a bool")
        found[name] = Option(name, default, _type(argument, function), owner)
    return found


def _type(argument: inspect.Parameter, function: Callable[..., Any]) -> Any:
    if argument.annotation is argument.empty:
        return Value | None if argument.default is None else type(argument.default)
    if isinstance(argument.annotation, str):
        return eval(argument.annotation, function.__globals__)
    return argument.annotation
