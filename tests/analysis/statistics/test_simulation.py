"""Error rates of the statistics of a report, by simulation: see docs/statistics.md.

`python tests/analysis/statistics/test_simulation.py` prints the table of that page.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pbt_bench.analysis.statistics.effects import effect
from pbt_bench.analysis.statistics.paired import MARGIN, Accuracies, compare, rank_by_mean
from pbt_bench.analysis.statistics.pooled import _pairs

Draw = Callable[[np.random.Generator, int, int, int], NDArray[np.float64]]
NAMES = list("abcdef")  # six methods of equal expected accuracy


def normal(generator: np.random.Generator, n: int, rows: int, methods: int) -> NDArray[np.float64]:
    """Return accuracies (seeds, rows, methods) with an effect of the seed, in which methods differ by chance alone."""
    return generator.normal(0.9, 0.01, (n, rows, 1)) + generator.normal(0, 0.01, (n, rows, methods))


def of_images(generator: np.random.Generator, n: int, rows: int, methods: int) -> NDArray[np.float64]:
    """Return shares of 450 test images, as of `digits`, about 0.95."""
    logits = 3 + generator.normal(0, 0.15, (n, rows, 1)) + generator.normal(0, 0.2, (n, rows, methods))
    return generator.binomial(450, 1 / (1 + np.exp(-logits))) / 450


def of_unequal_spread(generator: np.random.Generator, n: int, rows: int, methods: int) -> NDArray[np.float64]:
    """Return accuracies whose standard deviation is 0.2 to 5 points, by method."""
    return 0.8 + generator.normal(0, 1, (n, rows, methods)) * np.linspace(0.002, 0.05, methods)


def rates(draw: Draw, n: int, rows: int, pooled: int) -> dict[str, float]:
    """Return error rates in percent of methods that do not differ: `rows` cells, and `pooled` studies of 2 networks."""
    generator = np.random.default_rng(n)
    values = draw(generator, n, rows, len(NAMES))
    single = [line[0] for line in compare(values[:, :, :1] - values[:, :, 1:2], ["b"])]
    known = [each for each in single if not np.isnan(each.half)]
    standings = rank_by_mean(
        Accuracies(list(range(n)), list(range(rows)), NAMES, values, np.zeros((rows, 6), dtype=bool))
    )
    at_margin = [line[0] for line in compare(values[:, :, :1] - values[:, :, 1:2] + MARGIN, ["b"])]
    studies = [_pairs(NAMES, [draw(generator, n, 7, len(NAMES)).mean(axis=1) for _ in range(2)]) for _ in range(pooled)]
    found = {
        "interval covers": np.mean([each.low <= 0 <= each.high for each in known]),
        "p < 0.05": np.mean([each.p < 0.05 for each in single]),
        "equal at the margin": np.mean([each.equal for each in at_margin]),
        "any worse": np.mean([any(other.supported for other in each.against) for each in standings]),
        "best": np.mean([each.settled for each in standings]),
        "pooled p < 0.05": np.mean([pairs["p"].iloc[:15:5].lt(0.05).mean() for pairs in studies]),
        "any separated": np.mean([pairs["p_holm"].lt(0.05).any() for pairs in studies]),
    }
    return {name: 100 * float(rate) for name, rate in found.items()}


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("draw", [normal, of_images, of_unequal_spread])
def test_error_rates_are_within_a_point_of_the_nominal_ones(draw: Draw, n: int) -> None:
    found = rates(draw, n, 4000, 60)
    assert 94 <= found["interval covers"] <= 96
    assert 4 <= found["p < 0.05"] <= 6
    for name in ("equal at the margin", "any worse", "best"):
        assert found[name] <= 6


@pytest.mark.parametrize("n", [3, 5, 10])
def test_pooled_error_rates_are_within_a_point_of_the_nominal_ones(n: int) -> None:
    generator, names = np.random.default_rng(n), list("ab")
    p = [_pairs(names, [normal(generator, n, 7, 2).mean(axis=1) for _ in range(2)])["p"].iloc[0] for _ in range(3000)]
    assert 3 <= 100 * np.mean(np.array(p) < 0.05) <= 6


@pytest.mark.parametrize(("few", "many"), [(3, 10), (5, 10), (10, 3)])
def test_a_network_of_ten_times_the_spread_does_not_raise_error_rates(few: int, many: int) -> None:
    generator = np.random.default_rng(few)
    found = [effect([generator.normal(0, 0.1, few), generator.normal(0, 0.01, many)]) for _ in range(3000)]
    assert 4 <= 100 * np.mean([each.two_sided(0) < 0.05 for each in found]) <= 6
    assert 94 <= 100 * np.mean([each.interval[0] <= 0 <= each.interval[1] for each in found]) <= 96


def test_the_seeds_to_find_an_effect_find_it_with_probability_080_in_networks_of_unequal_spread() -> None:
    generator = np.random.default_rng(0)
    signs = np.tile([-1.0, 1.0], 200)
    n = int(effect([0.3 + 0.1 * signs, 0.3 + signs]).seeds_to_find(0, 0.025))
    assert 20 < n < 30  # of the one wide network: 2.8 standard errors of n seeds are 0.6
    assert (
        effect([0.9 + 0.1 * signs, 0.9 + signs]).seeds_to_find(0, 0.025) == 5
    )  # with degrees of freedom of one network
    found = [effect([generator.normal(0.3, 0.1, n), generator.normal(0.3, 1, n)]) for _ in range(2000)]
    assert np.mean([each.two_sided(0) < 0.05 for each in found]) == pytest.approx(0.8, abs=0.04)


if __name__ == "__main__":
    for distribution in (normal, of_images, of_unequal_spread):
        for seeds in (3, 5, 10):
            found = rates(distribution, seeds, 20_000, 2000)
            print(
                f"| {distribution.__name__} | {seeds} | " + " | ".join(f"{rate:.1f}" for rate in found.values()) + " |"
            )
