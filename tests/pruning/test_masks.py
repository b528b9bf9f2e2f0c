"""Invariants of masks: exact counts, whatever the scores."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pbt_bench.errors import RequestError
from pbt_bench.pruning.masks import Ranking, check_masks, exact_density, pruned_count, quotas

SPARSITIES = [0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
SCOPES = ["global", "layer", "erk", "uniform"]


def kept(masks: dict[str, Tensor]) -> int:
    return sum(int(m.sum()) for m in masks.values())


def scores(kind: str) -> dict[str, Tensor]:
    shapes = {"first": (4, 1, 3, 3), "middle": (40, 4, 3, 3), "last": (10, 160)}
    generator = torch.Generator().manual_seed(0)
    make = {
        "random": lambda shape: torch.rand(shape, generator=generator),
        "zero": lambda shape: torch.zeros(shape),
        "constant": lambda shape: torch.full(shape, -3.0),
        "ties": lambda shape: torch.randint(3, shape, generator=generator).float(),
        "mostly zero": lambda shape: (
            torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) > 0.975)
        ),
    }[kind]
    return {name: make(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", ["random", "zero", "constant", "ties", "mostly zero"])
def test_exactly_floor_of_sparsity_times_n_is_pruned(kind: str, scope: str, sparsity: float) -> None:
    given_scores = scores(kind)
    n = sum(s.numel() for s in given_scores.values())
    expected = n - int(Fraction(str(sparsity)) * n)
    if scope == "uniform" and expected < 36:
        with pytest.raises(RequestError, match="keeps the first layer"):
            Ranking(given_scores, scope).masks(sparsity)
        return
    masks = Ranking(given_scores, scope).masks(sparsity)
    assert kept(masks) == expected
    assert all(m.dtype == torch.bool and m.shape == given_scores[name].shape for name, m in masks.items())


@given(st.integers(1, 10**8), st.decimals(0, 1, places=4).filter(lambda d: d < 1))
def test_pruned_count_has_no_float_surprise(n: int, sparsity: object) -> None:
    assert pruned_count(float(str(sparsity)), n) == int(Fraction(str(sparsity)) * n)


def test_known_float_surprises() -> None:
    assert pruned_count(0.7, 10) == 7  # 0.7 * 10 is 7 by luck, 1 - 0.7 is 0.30000000000000004
    assert pruned_count(0.29, 100) == 29  # 0.29 * 100 = 28.999999999999996
    assert exact_density(0.8) == 0.2


def test_the_threshold_separates_and_ties_are_pruned_in_order() -> None:
    given_scores = scores("ties")
    masks = Ranking(given_scores, "global").masks(0.6)
    flat = torch.cat([s.flatten() for s in given_scores.values()])
    mask = torch.cat([m.flatten() for m in masks.values()])
    assert flat[mask].min() >= flat[~mask].max()
    border = mask[flat == flat[mask].min()]
    assert bool((border[1:] >= border[:-1]).all()), "among equals the first ones are pruned"
    assert border.any()
    assert not border.all()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([-2, 0, 1, 3, -torch.inf]), min_size=0, max_size=60), min_size=1, max_size=5
    ).filter(any),
    st.floats(0, 1),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    st.sampled_from(["global", "layer"]),
)
def test_the_threshold_of_one_count_keeps_what_a_stable_sort_keeps(
    values: list[list[float]], share: float, dtype: torch.dtype, scope: str
) -> None:
    given_scores = {str(i): torch.tensor(v, dtype=dtype) for i, v in enumerate(values)}
    count = int(share * sum(map(len, values)))
    found, expected = (Ranking(given_scores, scope, once).keep(count) for once in (True, False))
    assert kept(found) == count
    assert all(torch.equal(found[name], expected[name]) for name in given_scores)


@pytest.mark.parametrize("kind", ["random", "ties"])
def test_masks_of_one_shot_methods_are_nested(kind: str) -> None:
    ranking = Ranking(scores(kind), "global")
    previous = ranking.masks(0.0)
    for sparsity in SPARSITIES[1:]:
        masks = ranking.masks(sparsity)
        assert all(bool((previous[name] | ~masks[name]).all()) for name in masks)
        previous = masks


def test_layer_scope_prunes_every_layer_alike() -> None:
    for name, mask in Ranking(scores("random"), "layer").masks(0.9).items():
        assert abs(int(mask.sum()) - 0.1 * mask.numel()) <= 1, name


def test_erk_follows_its_formula_and_keeps_overfull_layers_dense() -> None:
    shapes = {"a": (16, 3, 3, 3), "b": (64, 16, 3, 3), "c": (10, 64)}
    sizes = {"a": 432, "b": 9216, "c": 640}
    total = sum(sizes.values())
    found = quotas(shapes, total // 10, "erk")
    scale = (total // 10) / (25 + 86 + 74)
    for name, dimensions in {"a": 25, "b": 86, "c": 74}.items():
        assert abs(found[name] - scale * dimensions) < 1
    dense = quotas(shapes, total // 2, "erk")
    assert dense["a"] == 432
    assert dense["c"] == 640
    assert sum(dense.values()) == total // 2


def test_uniform_keeps_the_first_layer_dense() -> None:
    masks = Ranking(scores("random"), "uniform").masks(0.9)
    assert bool(masks["first"].all())
    assert abs(float(masks["middle"].float().mean()) - float(masks["last"].float().mean())) < 1e-3


@settings(max_examples=200)
@given(
    st.lists(st.integers(1, 2000), min_size=1, max_size=8),
    st.floats(0, 0.999),
    st.sampled_from(["layer", "erk", "er", "igq", "equal"]),
)
def test_quotas_add_up_and_respect_the_layers(sizes: list[int], sparsity: float, scope: str) -> None:
    shapes = {str(i): (size, 2) for i, size in enumerate(sizes)}
    total = 2 * sum(sizes)
    keep = total - int(sparsity * total)
    alive = {name: 2 * size - (i % 2) for i, (name, size) in enumerate(zip(shapes, sizes, strict=True))}
    keep = min(keep, sum(alive.values()))
    found = quotas(shapes, keep, scope, alive)
    assert sum(found.values()) == keep
    assert all(0 <= found[name] <= alive[name] for name in shapes)


def test_the_largest_remainders_are_rounded_up() -> None:
    """Shares 3.9, 0.2 and 1.9 of six weights."""
    assert quotas({"a": (39,), "b": (2,), "c": (19,)}, 6, "layer") == {"a": 4, "b": 0, "c": 2}


def test_uniform_may_keep_the_first_layer_alone() -> None:
    assert quotas({"a": (4,), "b": (9,)}, 4, "uniform") == {"a": 4, "b": 0}
    with pytest.raises(RequestError, match=r"keeps the first layer \(a, 4 weights\) dense, .* leaves 3 weights in all"):
        quotas({"a": (4,), "b": (9,)}, 3, "uniform")


def test_a_scope_without_quotas_is_refused() -> None:
    with pytest.raises(RequestError, match="scope = 'global' has no shares of layers"):
        quotas({"a": (4,)}, 2, "global")


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([torch.ones(2, 3, dtype=torch.bool)], "masks are list, not a mapping"),
        ({"b": torch.ones(2, dtype=torch.bool), "a": None}, "masks and parameters of Linear differ: a, b"),
        ({"weight": [True] * 6}, "mask of weight: list, expected torch.bool [2, 3]"),
        ({"weight": torch.ones(2, 3)}, "mask of weight: torch.float32 [2, 3], expected torch.bool [2, 3]"),
        ({"weight": torch.ones(3, 2) > 0}, "mask of weight: torch.bool [3, 2], expected torch.bool [2, 3]"),
    ],
    ids=["list", "names", "type", "dtype", "shape"],
)
def test_masks_that_do_not_fit_are_refused(masks: Any, message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        check_masks(masks, nn.Linear(3, 2))


def test_masks_that_fit_give_their_parameters() -> None:
    model = nn.Linear(3, 2)
    assert check_masks({"weight": torch.ones(2, 3) > 0}, model) == {"weight": model.weight}
    with pytest.raises(RequestError, match="the model is dict, not a torch.nn.Module"):
        check_masks({}, {})  # type: ignore[arg-type]


@pytest.mark.parametrize("kept", [0, 1, 6])
def test_masks_are_bool_whatever_the_count(kept: int) -> None:
    for once in (False, True):
        mask = Ranking({"a": torch.arange(6.0)}, "global", once).keep(kept)["a"]
        assert mask.dtype == torch.bool
        assert mask.tolist() == [False] * (6 - kept) + [True] * kept
