"""Scopes: how the kept weights are shared out among the layers.

A scope returns a share of the total density for every layer, as exact fractions where they are fractions.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import prod

from pbt_bench.errors import RequestError
from pbt_bench.pruning.plugins import scope

Shapes = Mapping[str, tuple[int, ...]]


@scope(cite="Lee et al. 2019, arXiv:1810.02340, Sec. 4.2")
def layer(shapes: Shapes, density: float) -> Mapping[str, Fraction]:
    """The same density in every layer."""
    return dict.fromkeys(shapes, Fraction(1))


@scope(cite="Evci et al. 2020, arXiv:1911.11134, Sec. 3")
def uniform(shapes: Shapes, density: float) -> Mapping[str, Fraction]:
    """The first layer dense, the same density in all others.

    Raises RequestError if fewer weights are kept than the first layer has.
    """
    first, *others = [(name, prod(shape)) for name, shape in shapes.items()]
    total = sum(prod(shape) for shape in shapes.values())
    kept = round(density * total)
    if kept < first[1]:
        raise RequestError(
            f"scope = 'uniform' keeps the first layer ({first[0]}, {first[1]} weights) dense, "
            f"but density {density:g} leaves {kept} weights in all"
        )
    rest = Fraction(kept - first[1], max(1, total - first[1]))
    return {first[0]: Fraction(1)} | {name: rest for name, _ in others}


@scope(cite="Erdős-Rényi-Kernel; Evci et al. 2020, arXiv:1911.11134, Sec. 3")
def erk(shapes: Shapes, density: float) -> Mapping[str, Fraction]:
    """Density proportional to (sum of dimensions) / (product of dimensions); layers that would exceed 1 are dense."""
    return {name: Fraction(sum(shape), prod(shape)) for name, shape in shapes.items()}
