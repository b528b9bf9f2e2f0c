"""Names of modules, definitions and constants are distinct and without words that docs/glossary.md replaces."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path

from style.test_words import AVOIDED

PACKAGE = Path(__file__).parents[2] / "pbt_bench"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if path.name != "__init__.py"]

ACTIONS = frozenset(("intercept", "kept", "layout", "live", "preserve", "walks"))  # a module is named after its content
SHARED = frozenset(("__all__", "__getattr__", "_draw"))  # each figure has its `_draw`, called through its registration


def differ_by_a_letter(a: str, b: str) -> bool:
    """Return whether at most one letter is replaced, inserted or removed."""
    if len(a) > len(b):
        a, b = b, a
    shorter = {b[:index] + b[index + 1 :] for index in range(len(b))}
    return a in shorter or (len(a) == len(b) and any(a[:i] + a[i + 1 :] == b[:i] + b[i + 1 :] for i in range(len(a))))


def definitions(nodes: Iterable[ast.stmt]) -> Iterator[str]:
    """Yield the names of functions, classes and assigned variables at the top level of a module."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
        elif isinstance(node, ast.If):
            yield from definitions([*node.body, *node.orelse])


def identifiers(tree: ast.AST) -> Iterator[str]:
    """Yield all names that a module defines or uses."""
    for node in ast.walk(tree):
        for field in ("id", "arg", "attr", "name", "asname"):
            if isinstance(name := getattr(node, field, None), str):
                yield name


def words(identifier: str) -> str:
    """Separate the words of snake_case and CamelCase by spaces."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", identifier))


def package_of(path: Path) -> str:
    return path.parent.relative_to(PACKAGE).as_posix()


def repeated(of: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the names, without leading underscores, that more than one module or more than one definition has."""
    found = defaultdict(list)
    for name, where in of:
        found[name.lstrip("_")].append(f"{where}.{name}")
    return {name: sorted(set(each)) for name, each in found.items() if len(set(each)) > 1}


def shared_definitions() -> dict[str, dict[str, list[str]]]:
    """Return the names that two definitions of one folder share, by folder."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path in FILES:
        names = set(definitions(ast.parse(path.read_text(encoding="utf-8")).body)) - SHARED
        found[package_of(path)] += [(name, path.stem) for name in names]
    return {package: shared for package, each in found.items() if (shared := repeated(each))}


def test_no_two_modules_differ_by_a_letter() -> None:
    pairs = [
        tuple(sorted((a.stem, b.stem)))
        for a, b in combinations(MODULES, 2)
        if a.stem != b.stem and differ_by_a_letter(a.stem, b.stem)
    ]
    assert pairs == []


def test_no_module_is_named_after_an_action() -> None:
    assert ACTIONS.isdisjoint(path.stem for path in MODULES)


def test_no_two_definitions_of_a_package_share_a_name() -> None:
    found = shared_definitions()
    assert found == {}


def test_no_constant_has_two_meanings() -> None:
    constants = [
        (name, path.relative_to(PACKAGE).as_posix())
        for path in FILES
        for name in set(definitions(ast.parse(path.read_text(encoding="utf-8")).body))
        if re.fullmatch(r"_?[A-Z][A-Z0-9_]+", name)
    ]
    assert repeated(constants) == {}


def test_no_identifier_has_a_word_to_avoid() -> None:
    found = {
        f"{path.relative_to(PACKAGE).as_posix()}: {name}"
        for path in FILES
        for name in identifiers(ast.parse(path.read_text(encoding="utf-8")))
        if AVOIDED.search(words(name))
    }
    assert found == set()


def test_the_rules_tell_good_names_from_bad_ones() -> None:
    assert differ_by_a_letter("bounds", "rounds")
    assert differ_by_a_letter("walk", "walks")
    assert not differ_by_a_letter("masks", "walks")
    assert words("_HTTPRooms_of2Places") == "HTTP Rooms of 2 Places"
    assert AVOIDED.search(words("InputPlaces"))
    assert not AVOIDED.search(words("in_place"))
    assert repeated([("_FEW", "a"), ("FEW", "b"), ("MANY", "a")]) == {"FEW": ["a._FEW", "b.FEW"]}
