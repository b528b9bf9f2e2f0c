"""Register methods, statistics, datasets and models by name, and load the files that define them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any, Generic, TypeVar

from pbt_bench.errors import RequestError, unknown

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Map case-sensitive names to entries; an alias is a second name of an entry.

    An unknown name raises RequestError with the nearest name and all valid names.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, tuple[Entry, str]] = {}
        self._aliases: dict[str, str] = {}

    def add(self, name: str, entry: Entry, origin: str, aliases: tuple[str, ...] = ()) -> None:
        """Add an entry. Raises RequestError, with both origins, if `name` or an alias is already registered."""
        for each in (name, *aliases):
            if each in self._entries or each in self._aliases:
                first = self._entries[self._aliases.get(each, each)][1]
                raise RequestError(f"{self.kind} {each!r} is defined twice: {first} and {origin}")
        self._entries[name] = (entry, origin)
        self._aliases.update(dict.fromkeys(aliases, name))

    def __getitem__(self, name: str) -> Entry:
        key = self._aliases.get(name, name) if isinstance(name, str) else None
        if key is None or key not in self._entries:
            raise unknown(self.kind, name, [*self._entries, *self._aliases])
        return self._entries[key][0]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._aliases

    def items(self) -> list[tuple[str, Entry]]:
        """Return (name, entry) sorted by name, without aliases."""
        return [(name, self._entries[name][0]) for name in self]

    def clear(self) -> None:
        """Remove all entries and aliases."""
        self._entries.clear()
        self._aliases.clear()


def origin(function: Callable[..., Any]) -> str:
    """Return `file:line` of the definition of `function`."""
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def load_folder(folder: Path, package: str) -> None:
    """Import every `*.py` of `folder` whose name has no leading underscore, as module `<package>_<stem>`."""
    for path in sorted(folder.glob("[!_]*.py")):
        spec = util.spec_from_file_location(f"{package}_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = util.module_from_spec(spec)
        sys.modules[module.__name__] = module
        try:
            spec.loader.exec_module(module)
        except RequestError:
            raise
        except Exception as error:
            raise RequestError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error


def extra_folders(variable: str) -> list[Path]:
    """Return the folders in an environment variable, separated as in PATH. Raises RequestError if one is missing."""
    folders = [Path(text) for text in os.environ.get(variable, "").split(os.pathsep) if text]
    for folder in folders:
        if not folder.is_dir():
            raise RequestError(f"{variable}: {folder} is not a folder")
    return folders
