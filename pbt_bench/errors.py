"""Errors that a user can mend: one line that names the value, the place and the valid choices."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cache


class RequestError(ValueError):
    """The request is wrong (exit code 2); nothing was started and nothing is lost."""


class StoreError(RuntimeError):
    """The results folder takes no more (exit code 1); what is finished is kept, the same command carries on."""


class ScoreError(RuntimeError):
    """A pruner gave scores that cannot be ranked; names the method and the layer."""


class SparsityError(RuntimeError):
    """The weights that are evaluated are not as sparse as the mask says."""


def unknown(kind: str, name: object, valid: Iterable[str], where: str = "") -> RequestError:
    """The error for a `name` that is none of the `valid` ones, with the nearest and all of them."""
    choices = sorted(valid)
    ends = {choice.rsplit(".", 1)[-1]: choice for choice in choices}  # "recipe." in front makes no key alike
    near = get_close_matches(str(name).rsplit(".", 1)[-1], ends, n=1, cutoff=0.5)
    hint = f"; did you mean {ends[near[0]]!r}?" if near else ""
    place = f"{where}: " if where else ""
    return RequestError(f"{place}unknown {kind} {name!r}{hint} (valid: {', '.join(choices)})")


def shortened(names: Sequence[str], most: int = 5) -> str:
    """Return `names` for one line: the first few, and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def printable(text: str) -> str:
    """`text` without what a terminal would take for commands, or no file for characters: "?" in its place."""
    return "".join(character if character.isprintable() else "?" for character in text)


@cache
def note_once(text: str) -> None:
    """Say on stderr what is no error but should be known; the same words once per process."""
    print(f"note: {text}", file=sys.stderr)
