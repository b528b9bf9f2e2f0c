"""Register methods, statistics, datasets and models by name, and load the files that define them."""

from __future__ import annotations

import ast
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
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

    def name(self, alias: str) -> str:
        """Return the name of the entry that has this alias; any other text is returned unchanged."""
        return self._aliases.get(alias, alias)

    def origin(self, name: str) -> str:
        """Return `file:line` of the definition of an entry."""
        return self._entries[self._aliases.get(name, name)][1]

    def items(self) -> list[tuple[str, Entry]]:
        """Return (name, entry) sorted by name, without aliases."""
        return [(name, self._entries[name][0]) for name in self]

    def entries_of(self, file: Path) -> list[Entry]:
        """Return the entries that are defined in `file`."""
        return [entry for entry, where in self._entries.values() if where.rpartition(":")[0] == str(file)]

    def remove_from(self, file: Path) -> None:
        """Remove all entries, and their aliases, that are defined in `file`."""
        self._entries = {name: each for name, each in self._entries.items() if each[1].rpartition(":")[0] != str(file)}
        self._aliases = {alias: name for alias, name in self._aliases.items() if name in self._entries}

    def keep_from(self, folder: Path) -> None:
        """Remove all entries, and their aliases, that are not defined in a file below `folder`."""
        self._entries = {name: each for name, each in self._entries.items() if each[1].startswith(f"{folder}{os.sep}")}
        self._aliases = {alias: name for alias, name in self._aliases.items() if name in self._entries}


def origin(function: Callable[..., Any]) -> str:
    """Return `file:line` of the definition of `function`."""
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


_PACKAGE = Path(__file__).parent


def revision(where: str, declared: int) -> int | str:
    """Return the revision of what is defined at `where` (file:line).

    It is the declared number in a file of the project, and a digest of the file's code in any other file, so that
    an edited formula is never served old results. Comments, docstrings and layout do not count.
    """
    path = Path(where.rpartition(":")[0])
    if path.is_relative_to(_PACKAGE) or path.parent == _PACKAGE.parent / "methods":
        return declared
    return source_digest(path)


def source_digest(path: Path) -> str:
    """Return 12 hex digits of the SHA-256 of a file's parsed code, as it was when this process loaded the file.

    The modules beside a file from outside the project that it imports count too. Comments, docstrings and citations do
    not. A function that has aliases counts under the first of them, so
    that a renamed method keeps its digest if its earlier name is its alias.
    """
    return _LOADED.get(path) or _digest(path.read_bytes())


_LOADED: dict[Path, str] = {}  # digest of each file from outside the package


def _digest_with_imports(source: bytes, path: Path) -> str:
    """Return the digest of a file, and of the modules in its folder that it imports, directly or not.

    Without such a module it is the digest of the file alone.
    """
    found = {path: source}
    waiting = [path]
    while waiting:
        for helper in _imported_beside(found[waiting.pop()], path.parent):
            if helper not in found:
                found[helper] = helper.read_bytes()
                waiting.append(helper)
    own = _digest(found.pop(path))
    if not found:
        return own
    names = sorted(f"{helper.relative_to(path.parent).as_posix()} {_digest(text)}" for helper, text in found.items())
    return hashlib.sha256("\n".join([own, *names]).encode()).hexdigest()[:12]


def _imported_beside(source: bytes, folder: Path) -> Iterator[Path]:
    """Yield the files of the modules in `folder` that `source` imports; of a package, all files."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in {name.partition(".")[0] for name in names}:
            module, package = folder / f"{name}.py", folder / name
            if name in sys.modules:  # it may have been found in another folder
                loaded = sys.modules[name]
                where = [getattr(loaded, "__file__", None), *getattr(loaded, "__path__", ())]
                if not {module.resolve(), package.resolve()} & {Path(path).resolve() for path in where if path}:
                    continue
            yield from [module] if module.is_file() else sorted(package.rglob("*.py"))


def _digest(source: bytes) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef):
            for call in [each for each in node.decorator_list if isinstance(each, ast.Call)]:
                for word in [each for each in call.keywords if each.arg in ("aliases", "cite")]:
                    call.keywords.remove(word)
                    names = ast.literal_eval(word.value) if isinstance(word.value, ast.Tuple) else ()
                    node.name = names[0] if word.arg == "aliases" and names else node.name
    return hashlib.sha256(repr(_syntax(tree)).encode()).hexdigest()[:12]


def _syntax(node: Any) -> Any:
    """Return a syntax tree as lists and texts, without empty fields: Python versions differ in them."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return [type(node).__name__, *([name, _syntax(value)] for name, value in fields)]
    return [_syntax(each) for each in node] if isinstance(node, list) else repr(node)


def load_folder(folder: Path, package: str) -> None:
    """Import every `*.py` of `folder` whose name has no leading underscore, as module `<package>_<stem>`."""
    for path in sorted(folder.glob("[!_]*.py")):
        load_file(path, package)


def load_file(path: Path, package: str) -> None:
    """Import a file as module `<package>_<stem>`. Raises RequestError, naming the file, if that fails."""
    spec = util.spec_from_file_location(f"{package}_{path.stem}", path)
    assert spec is not None
    module = util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    try:
        # Compiled here because Python's cache of bytecode misses an edit of equal length within a second.
        source = path.read_bytes()
        _LOADED.pop(path, None)
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
        _LOADED[path] = _digest_with_imports(source, path)
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error


def extra_folders(variable: str) -> list[Path]:
    """Return the folders in an environment variable, separated as in PATH. Raises RequestError if one is missing."""
    return list(_checked_folders(variable, os.environ.get(variable, "")))


@cache  # a method may change the working directory later
def _checked_folders(variable: str, value: str) -> tuple[Path, ...]:
    folders = [Path(text).resolve() for text in value.split(os.pathsep) if text]
    for folder in folders:
        if not folder.is_dir():
            raise RequestError(f"{variable}: {folder} is not a folder")
    return tuple(folders)
