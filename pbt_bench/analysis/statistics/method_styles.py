"""Colour, marker, dash and position in the fixed order of each method, the same in every figure and table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.typing import LineStyleType, MarkerType


class MethodStyle(NamedTuple):
    """Colour, marker and dash of one method in every figure."""

    colour: str
    marker: MarkerType
    dash: LineStyleType


_DASHES: dict[str, LineStyleType] = {"-": "-", "--": (0, (5, 2)), ":": (0, (1.2, 1.4)), "-.": (0, (6, 1.5, 1.2, 1.5))}

# Upper bounds are drawn like methods: see study.py.
PRUNED_AFTER_TRAINING, LOTTERY_TICKET = "magnitude after training", "lottery ticket (rewound)"

# The main methods have the colours of Okabe and Ito; related methods have those of Paul Tol's "muted" scheme or a
# darker shade. Each pair of marker and dash is unique, so that methods are distinguishable in greyscale.
_KNOWN: dict[str, MethodStyle] = {
    name: MethodStyle(colour, marker, _DASHES[dash])
    for name, colour, marker, dash in (
        ("dense", "#000000", "_", "-"),
        ("random", "#7f7f7f", "o", ":"),
        ("magnitude", "#e69f00", "s", "--"),
        ("snip", "#0072b2", "^", "-"),
        ("grasp", "#009e73", "v", "-."),
        ("synflow", "#d55e00", "D", "-"),
        ("fts", "#cc79a7", "P", "-"),
        ("grad_norm", "#56b4e9", "<", "--"),
        ("fisher_diagonal", "#332288", "X", "--"),
        ("fisher_pruning", "#aa4499", ">", "-."),
        ("fbss", "#882255", "p", "-"),
        ("hutchinson_diagonal", "#117733", "h", "--"),
        ("hutchinson_pruning", "#999933", "*", "-"),
        ("hts", "#44aa99", "d", "-"),
        ("iterative_snip", "#004c78", "^", "--"),
        ("force", "#88ccee", "8", "-."),
        ("synflow_l2", "#8c3d00", "D", ":"),
        ("random_erk", "#4d4d4d", "o", "--"),
        ("random_uniform", "#a8a8a8", "o", "-."),
        ("random_uniform_plus", "#b8a48c", "s", "-."),
        ("random_igq", "#5b7c99", "o", "-"),
        ("random_er", "#6e6e4a", "v", ":"),
        ("random_equal", "#5f8c7d", "h", ":"),
        ("random_smart_ratio", "#8a5a6e", "d", "--"),
        ("random_smart_ratio_vgg", "#c2a3b1", "d", ":"),
        ("ntk_sap", "#ddaa33", "p", ":"),
        ("prospr", "#cc6677", "X", "-"),
        ("phew", "#6b4c9a", "<", ":"),
        ("imp", "#0b3d0b", "*", "-."),
        ("lamp", "#f0b84a", "s", "-"),
        ("grad_flow", "#005f46", "v", "-"),
        ("wanda", "#8fbcbb", "8", ":"),
        ("ria", "#5f8f8f", "h", "-."),
        ("px", "#b3541e", "P", "--"),
        ("snip_structured", "#2f6f9f", "^", "-."),
        ("edge_popup", "#7a3b5d", "p", "--"),
        ("npb", "#6e8b3d", "<", "-"),
        ("mica", "#556270", "X", ":"),
        ("set", "#3f7f3f", "8", "-"),
        ("rigl", "#c2185b", ">", "--"),
        ("gmp", "#7b6000", "d", "-."),
        ("dpai", "#b5548a", "<", "-."),
        (PRUNED_AFTER_TRAINING, "#111111", "s", ":"),
        (LOTTERY_TICKET, "#2b2b2b", "*", "--"),
    )
}
# Colours and markers for users' methods; no known method has them.
_OWN_COLOURS = ("#1b9aaa", "#a6761d", "#e7298a", "#66a61e", "#5e60ce", "#b22222", "#2f4f4f", "#c49c94")
_OWN_MARKERS: tuple[MarkerType, ...] = ("H", (4, 1, 45), (5, 0, 180), (6, 1, 0))


def method_style(method: str) -> MethodStyle:
    """Return colour, marker and dash of a known method, or derive them from the name of an unknown one."""
    if method in _KNOWN:
        return _KNOWN[method]
    number = int.from_bytes(hashlib.sha256(method.encode()).digest()[:4], "big")
    number, colour = divmod(number, len(_OWN_COLOURS))
    number, marker = divmod(number, len(_OWN_MARKERS))
    return MethodStyle(_OWN_COLOURS[colour], _OWN_MARKERS[marker], list(_DASHES.values())[number % len(_DASHES)])


def method_order(methods: Iterable[str]) -> list[str]:
    """Sort methods: known ones in their fixed order, others by name, and each by the values of its options."""
    known = list(_KNOWN)

    def key(name: str) -> tuple[int, str, list[tuple[bool, float, str]]]:
        method, _, options = name.partition(" (")
        words = [(word, _number(word.rstrip(",)"))) for word in options.split()]
        order = [(number is None, number or 0.0, word) for word, number in words]
        return known.index(method) if method in _KNOWN else len(known), method, order

    return sorted(methods, key=key)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
