"""Errors that a user can correct: one line with the value, its location and the valid values."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from typing import Any


class RequestError(ValueError):
    """The request is invalid (exit code 2). No run was started, no result is lost."""


class StoreError(RuntimeError):
    """The results folder cannot be written (exit code 1). Finished runs are kept; the same command continues."""


class ScoreError(RuntimeError):
    """The scores of a method cannot be ranked; the message names the method and the layer."""


class SparsityError(RuntimeError):
    """The evaluated weights do not have the sparsity of the mask."""


def unknown(
    kind: str, name: object, valid: Iterable[str], where: str = "", elsewhere: Iterable[str] = ()
) -> RequestError:
    """Return the error for a `name` that is not in `valid`: the nearest valid name, then all valid names.

    `elsewhere` are names that are valid in another position, such as "grid.seed" for a key outside its table.
    """
    choices = sorted(valid)
    near = _nearest(str(name), choices, sorted(elsewhere))
    hint = f"; did you mean {near!r}?" if near else ""
    prefix = f"{where}: " if where else ""
    return RequestError(f"{prefix}unknown {kind} {name!r}{hint} (valid: {', '.join(choices)})")


def _nearest(name: str, valid: Sequence[str], elsewhere: Sequence[str]) -> str | None:
    """Return the name with the same letters and digits as `name`, or with these initials, or else a similar name.

    Keys are compared without their table: "recipe.lr" is "recipe.learning_rate".
    """
    wanted = _letters(name)
    for form in (_letters, _initials):
        for choice in (*valid, *elsewhere):
            if wanted and form(choice) == wanted:
                return choice
    similar = {_letters(choice): choice for choice in reversed(valid)}
    near = get_close_matches(wanted, similar, n=1, cutoff=0.5)
    return similar[near[0]] if near else None


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name.rsplit(".", 1)[-1].casefold())


def _initials(name: str) -> str:
    words = re.split(r"[\W_]+", name.rsplit(".", 1)[-1].casefold())
    return "".join(word[:1] for word in words) if len(words) > 1 else ""


def shortened(names: Sequence[str], most: int = 5) -> str:
    """Return the first `most` names and the number of further names, as one line."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(number: int, noun: str) -> str:
    """Return `1 run`, or `2 runs` for the noun "run"."""
    return f"{number} {noun}" + ("s" if number != 1 else "")


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if there is none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def printable(text: str) -> str:
    """Return `text` with "?" in place of every character that is not printable.

    These include terminal commands, and characters that change the direction of text (all of Unicode's class Cf).
    """
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)


def printable_json(text: str) -> str:
    """Return JSON with escapes in place of the characters that are not printable, except line breaks."""
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def printable_lines(value: Any) -> Any:
    """Return `printable` of a plain string, and any other value unchanged. Line breaks are kept."""
    return "\n".join(map(printable, value.split("\n"))) if type(value) is str else value


def spreadsheet_text(text: str) -> str:
    """Return a printable text that spreadsheets do not execute: after "'" if it begins like a formula.

    A number is returned unchanged.
    """
    with suppress(ValueError):
        float(text)
        return text
    text = printable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


@cache
def note_once(text: str) -> None:
    """Print a note to stderr, once per text and process."""
    print(f"note: {printable_lines(text)}", file=sys.stderr)
