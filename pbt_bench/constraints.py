"""Structures whose fields are checked, and their conversion from plain data.

A constraint stands in the annotation of a field: `epochs: Annotated[int, at_least(0)] = 15`. It is checked whenever an
instance is created, in Python or from a file; the documentation prints its text.
"""

from __future__ import annotations

import codecs
import re
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from math import inf
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec

from pbt_bench.errors import RequestError, unknown

_T = TypeVar("_T")
_MOST_TOML_BYTES = 1_000_000  # of a TOML file: it is read in a second
_MOST_VALUE_CHARACTERS = 60  # of a value in a message
_TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
fields = cache(msgspec.structs.fields)  # it evaluates the annotations on each call


class Constraint(NamedTuple):
    """A condition on the values of a field; `text` completes the sentence "it must be …"."""

    text: str
    holds: Callable[[Any], object]
    choices: tuple[str, ...] = ()  # all valid values, if there is a list of them

    def error(self, name: str, value: object) -> RequestError:
        """Return the error for a `value` of the field `name` that violates the condition."""
        if self.choices:
            return unknown(f"{name} value", value, self.choices)
        return RequestError(f"{name} = {value!r} must be {'finite' if value == inf else self.text}")


def at_least(low: float) -> Constraint:
    """Accept finite numbers from `low`."""
    return Constraint(f"at least {low:g}", lambda value: low <= value < inf)


def between(low: float, high: float) -> Constraint:
    """Accept numbers from `low` to `high`, both included."""
    return Constraint(f"between {low:g} and {high:g}", lambda value: low <= value <= high)


def matching(pattern: str, text: str) -> Constraint:
    """Accept strings that a regular expression matches as a whole."""
    return Constraint(text, re.compile(pattern).fullmatch)


def one_of(*choices: str) -> Constraint:
    """Accept the strings in `choices`."""
    return Constraint(", ".join(f"'{choice}'" for choice in choices), choices.__contains__, choices)


class Checked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable structure without unknown fields, whose constraints hold and whose float fields never hold an int."""

    def __post_init__(self) -> None:
        floats, constraints = _checks(type(self))
        for name in floats:
            if type(value := getattr(self, name)) is int:  # 1 and 1.0 would have different run ids
                msgspec.structs.force_setattr(self, name, float(value))
        for name, kind, holds, constraint in constraints:
            value = getattr(self, name)
            if isinstance(value, kind) and not holds(value):
                raise constraint.error(name, value)


@cache
def _checks(struct: type[Checked]) -> tuple[list[str], list[tuple[str, type, Callable[[Any], object], Constraint]]]:
    """Return the names of the float fields, and (field, type, condition, constraint) of those with a constraint."""
    members = [(field.name, *member) for field in fields(struct) for member in annotated(field.type)]
    return (
        [name for name, kind, _ in members if kind is float],
        [(name, kind, constraint.holds, constraint) for name, kind, constraint in members if constraint],
    )


def annotated(annotation: Any) -> list[tuple[type, Constraint | None]]:
    """Return (type, constraint) of each member of the union `annotation`, or of the one type that it is."""
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return [(getattr(each, "__origin__", each), *getattr(each, "__metadata__", (None,))) for each in members]


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the tables of a TOML file. Raises RequestError, one line with the path, if it cannot be read."""
    try:
        if (size := Path(path).stat().st_size) > _MOST_TOML_BYTES:
            raise RequestError(f"{path}: {size:,} bytes; a TOML file of settings has at most {_MOST_TOML_BYTES:,}")
        return tomllib.loads(_decoded(Path(path).read_bytes()))
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"{str(path)[:300]}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path}: not a TOML file: {error}") from None


def _decoded(content: bytes) -> str:
    """Decode UTF-8, or UTF-16 with a byte-order mark, as editors on Windows write it. Raises ValueError otherwise."""
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not in {error.encoding.upper()}: save the file as UTF-8") from None


def convert(table: Any, struct: type[_T], where: str) -> _T:
    """Convert plain data to an instance of the msgspec structure `struct`.

    Raises RequestError naming `where`, the key, and the nearest valid key or the valid values.
    """
    _check_keys(table, struct, where, "")
    try:
        return msgspec.convert(table, struct)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise RequestError(f"{where}: {_type_error(table, path.rstrip('`').lstrip('.'), message)}") from None


def _type_error(table: Any, key: str, message: str) -> str:
    """Return msgspec's `message` on the value of `key`; for a wrong type with the value and in words of TOML."""
    words, value = type_words(message), table
    if words == message or not key:
        return f"{key}: {message}" if key else message
    try:
        for part in re.findall(r"[^.\[\]]+", key):
            value = value[int(part) if isinstance(value, (list, tuple)) else part]
    except (LookupError, TypeError, ValueError):  # a key with a dot
        return f"{key} {words}"
    return f"{key} = {shown_value(value)} {words}"


def type_words(message: str) -> str:
    """Return a message of msgspec on a type as "must be a number"; any other message unchanged."""
    found = re.fullmatch(r"Expected `([^`]+)`, got `(\w+)`", message)
    if found is None:
        return message
    expected = [_TYPE_NAMES.get(name, name) for name in found[1].split(" | ") if name != "null"]
    return f"must be {' or '.join(expected)}{', not a text' if found[2] == 'str' else ''}"


def shown_value(value: object) -> str:
    """Return a value, shortened to fit into a message."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _MOST_VALUE_CHARACTERS else f"{text[:_MOST_VALUE_CHARACTERS]}…"


def _check_keys(table: Any, struct: Any, where: str, prefix: str) -> None:
    """Check that every key of `table` is a field of `struct`, and that no field without a default is missing."""
    if not isinstance(table, Mapping):
        return  # the error of msgspec names the expected type
    known = {field.encode_name: field for field in fields(struct)}
    for key, value in table.items():
        if key not in known:
            inside = [
                f"{prefix}{name}.{inner.name}"
                for name, field in known.items()
                if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
                for inner in fields(field.type)
            ]
            raise unknown("key", f"{prefix}{key}", (f"{prefix}{name}" for name in known), where, inside)
        inner = known[key].type
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            _check_keys(value, inner, where, f"{prefix}{key}.")
    missing = [f"{prefix}{name}" for name, field in known.items() if field.required and name not in table]
    if missing:
        raise RequestError(f"{where}: missing {', '.join(missing)}")
