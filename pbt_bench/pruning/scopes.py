"""Scopes: how the kept weights are shared out among the layers.

A scope returns a share of the total density for every layer, as exact fractions where they are fractions.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import ceil, prod

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
    first, *others = shapes
    size = prod(shapes[first])
    left = _remaining(shapes, density, size, f"scope = 'uniform' keeps the first layer ({first}, {size} weights) dense")
    return {first: Fraction(1)} | dict.fromkeys(others, left / max(1, sum(prod(shapes[name]) for name in others)))


@scope(cite="Gale et al. 2019, arXiv:1902.09574; Uniform+ in Lee et al. 2021, arXiv:2010.07611")
def uniform_plus(shapes: Shapes, density: float) -> Mapping[str, Fraction]:
    """The first layer dense, the same density in all others, but at least 20% of the last layer if it is linear.

    Raises RequestError if fewer weights are kept, or if the first layer is not a convolution.
    """
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    first, last = (list(shapes)[index] for index in (0, -1))
    if len(shapes[first]) < 3:
        raise RequestError(f"scope = 'uniform_plus' needs a convolution as first layer, not {first} {shapes[first]}")
    least = Fraction(len(shapes[last]) == 2, 5)
    fixed = sizes[first] + least * sizes[last]
    rule = f"scope = 'uniform_plus' keeps the first layer and 20% of a linear last layer ({ceil(fixed)} weights)"
    left = _remaining(shapes, density, fixed, rule)
    others = sum(sizes.values()) - sizes[first]
    even = (left + least * sizes[last]) / max(1, others)  # if it is below `least`, only the middle layers keep fewer
    middle = min(even, left / max(1, others - sizes[last]))
    return dict.fromkeys(shapes, middle) | {last: max(least, even)} | {first: Fraction(1)}


@scope(cite="Mocanu et al. 2018, arXiv:1707.04780; Erdős-Rényi in Evci et al. 2020, arXiv:1911.11134, Sec. 3")
def er(shapes: Shapes, density: float) -> Mapping[str, Fraction]:
    """Density proportional to (inputs + outputs) / (inputs · outputs); layers that would exceed 1 are dense."""
    return erk({name: shape[:2] for name, shape in shapes.items()}, density)


@scope(cite="Erdős-Rényi-Kernel; Evci et al. 2020, arXiv:1911.11134, Sec. 3")
def erk(shapes: Shapes, density: float) -> Mapping[str, Fraction]:
    """Density proportional to (sum of dimensions) / (product of dimensions); layers that would exceed 1 are dense."""
    return {name: Fraction(sum(shape), prod(shape)) for name, shape in shapes.items()}


@scope(cite="Ideal Gas Quotas; Vysogorets and Kempe 2023, arXiv:2107.02306")
def igq(shapes: Shapes, density: float) -> Mapping[str, float]:
    """Density 1 / (F·n + 1) of a layer of n weights; F is such that the total is exact."""
    sizes = [prod(shape) for shape in shapes.values()]
    low, high = 0.0, float(len(sizes))  # at the upper bound, less than one weight is kept
    for _ in range(100):
        force = (low + high) / 2
        too_dense = sum(size / (force * size + 1) for size in sizes) > density * sum(sizes)
        low, high = (force, high) if too_dense else (low, force)
    return {name: 1 / (high * prod(shape) + 1) for name, shape in shapes.items()}


@scope(cite="balanced; Gadhikar et al. 2023, arXiv:2210.02412")
def equal(shapes: Shapes, density: float) -> Mapping[str, Fraction]:
    """The same number of weights in every layer; layers that have fewer are dense."""
    return {name: Fraction(1, prod(shape)) for name, shape in shapes.items()}


@scope(cite="for ResNet; Su et al. 2020, arXiv:2009.11094")
def smart_ratio(shapes: Shapes, density: float) -> Mapping[str, Fraction]:
    """30% of linear layers; density of convolutions proportional to k² + k, k = 1 for the last layer.

    The excess of a convolution that would exceed 1 goes to the next convolution, and that of the last one to the linear
    layers. Raises RequestError if fewer weights are kept than 30% of the linear layers.
    """
    return _descending_shares("smart_ratio", shapes, density, power=0)


@scope(cite="for VGG; Su et al. 2020, arXiv:2009.11094")
def smart_ratio_vgg(shapes: Shapes, density: float) -> Mapping[str, Fraction]:
    """30% of linear layers; density of convolutions proportional to (k² + k) / i², i = 1 for the first layer.

    Everything else is as in `smart_ratio`.
    """
    return _descending_shares("smart_ratio_vgg", shapes, density, power=2)


def _descending_shares(scope: str, shapes: Shapes, density: float, power: int) -> Mapping[str, Fraction]:
    """Return the shares of a scope whose ratios of convolutions are (k² + k) / i^power."""
    linear = [name for name, shape in shapes.items() if len(shape) == 2]
    fixed = Fraction(3, 10) * sum(prod(shapes[name]) for name in linear)
    rule = f"scope = {scope!r} keeps 30% of the linear layers ({ceil(fixed)} weights)"
    left = _remaining(shapes, density, fixed, rule)
    layers = len(shapes)
    numbered = zip(shapes, range(1, layers + 1), range(layers, 0, -1), strict=True)
    ratios = {name: Fraction(k * k + k, i**power) for name, i, k in numbered if name not in linear}
    total = sum(ratio * prod(shapes[name]) for name, ratio in ratios.items())
    shares = dict.fromkeys(linear, Fraction(3, 10))
    excess = Fraction(0)  # in weights
    for name, ratio in ratios.items():
        share = ratio * left / total + excess / prod(shapes[name])
        shares[name] = min(share, Fraction(1))
        excess = (share - shares[name]) * prod(shapes[name])
    return shares


def _remaining(shapes: Shapes, density: float, fixed: Fraction | int, rule: str) -> Fraction:
    """Return the number of kept weights beyond the `fixed` ones of a rule.

    Raises RequestError, which begins with the rule, if fewer weights are kept.
    """
    kept = round(density * sum(prod(shape) for shape in shapes.values()))
    if kept < fixed:
        raise RequestError(f"{rule}, but density {density:g} leaves {kept} weights in all")
    return Fraction(kept - fixed)
