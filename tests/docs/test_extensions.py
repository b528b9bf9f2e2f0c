"""Tests of the Sphinx extensions: formulas from code, docstrings, counted passes, and no requests to other hosts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

from cost import cost  # noqa: E402
from docstrings import restructured  # noqa: E402
from formula import formula  # noqa: E402
from offline import requests  # noqa: E402

from pbt_bench.pruning.plugins import (  # noqa: E402
    pruners,
    statistics,
)


def shown(method: str) -> str | None:
    return formula(pruners()[method].function, {name: entry.symbol for name, entry in statistics().items()})


def test_every_statistic_has_a_symbol_and_every_method_a_formula() -> None:
    for _, entry in statistics().items():
        assert entry.symbol
        assert entry.formula
        assert "|" not in entry.symbol, "it would end a cell of a table"
    for name in pruners():
        assert shown(name), name


@pytest.mark.parametrize(
    ("method", "latex"),
    [
        ("snip", r"\left|\theta\,g\right|"),
        ("fts", r"\left|\theta\,g + \frac{\theta^2\,F}{2}\right|"),
        ("grasp", r"\theta\,(Hg)"),
        ("hutchinson_pruning", r"\left|\frac{\theta^2\,h}{2}\right|"),
        ("synflow", r"\left|\theta\right|\,\frac{\partial R}{\partial \vert\theta\vert}"),
    ],
)
def test_the_formula_is_that_of_the_code(method: str, latex: str) -> None:
    assert shown(method) == latex


def difference(weight: Tensor, gradient: Tensor) -> Tensor:
    total = weight + gradient
    return -(total - (weight - gradient)) * total.square()


def more_than_algebra(weight: Tensor) -> Tensor:
    return weight.sort().values


def with_a_loop(weight: Tensor) -> Tensor:
    for _ in range(3):
        weight = weight * weight
    return weight


def test_brackets_stand_where_they_must() -> None:
    latex = formula(difference, {"weight": "w", "gradient": "g"})
    assert latex == r"\left(-\left(w + g - \left(w - g\right)\right)\right)\,\left(w + g\right)^2"


@pytest.mark.parametrize("function", [more_than_algebra, with_a_loop])
def test_code_that_is_no_formula_has_none(function: Callable[..., Tensor]) -> None:
    assert formula(function, {}) is None


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        ("magnitude", "no pass through the network"),
        ("fts", "1 forward and backward pass over the scoring data"),
        ("grasp", "2 forward and 3 backward passes over the scoring data"),
        ("prospr", "4 forward and backward passes over one batch"),
        ("synflow", "100 forward and backward passes over one example"),
    ],
)
def test_passes_are_counted(method: str, passes: str) -> None:
    assert str(cost(method)) == passes


def test_a_request_to_another_computer_is_found_and_a_link_is_not() -> None:
    for text in (
        '<script async src="https://cdn.example/math.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/a.css">',
        '<link href="https://fonts.example/a.css" rel="stylesheet">',
        "@import 'https://fonts.example/a.css';",
        "src: url(https://fonts.example/a.woff)",
        '<img alt="x" src="http://pictures.example/a.png">',
    ):
        assert requests(text), text
    for text in ('<a href="https://arxiv.org/abs/1">', '<img src="a.png">', '<link rel="stylesheet" href="a.css">'):
        assert not requests(text), text


def test_docstrings_become_restructured_text() -> None:
    given = ["|θ·g| of `weight`, not name_.", "one more line", "", "a  b", "     c", "", "end"]
    assert restructured(given) == [
        r"\|θ·g\| of ``weight``, not name\_.", "one more line", "", "::", "", "    a  b", "         c", "", "end", ""
    ]  # fmt: skip
