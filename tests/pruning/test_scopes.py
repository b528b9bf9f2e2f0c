"""Quotas equal those of the published codes (tests/golden/scopes.json) and hold for random layers."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import GOLDEN

from pbt_bench.errors import RequestError
from pbt_bench.models import build
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning.masks import pruned_count, quotas
from pbt_bench.pruning.plugins import pruners, scopes

MODELS = {"resnet20": 10, "resnet18": 10, "vgg16": 10, "vgg19": 100, "resnet50-imagenet": 1000}  # name -> classes
PUBLISHED = json.loads(GOLDEN.with_name("scopes.json").read_text())
SCOPES = sorted(set(scopes()) - {"global"})
Shapes = dict[str, tuple[int, ...]]


@cache
def shapes_of(model: str) -> Shapes:
    network = build(model, 3, MODELS[model], seed=0)
    return {name: tuple(p.shape) for name, p in prunable(network).items()}


def kept_weights(shapes: Shapes, sparsity: float) -> int:
    total = sum(map(prod, shapes.values()))
    return total - pruned_count(sparsity, total)


def cells(*names: str) -> list[tuple[str, str, float]]:
    keys = [(scope, *key.split("/")) for scope in names for key in PUBLISHED[scope]]
    return [(scope, model, float(sparsity)) for scope, model, sparsity in keys]


def published(scope: str, model: str, sparsity: float) -> list[float] | None:
    """Return the kept weights of each layer in the published code; None if it fails or gives a negative density."""
    values = PUBLISHED[scope][f"{model}/{sparsity}"]
    if values is None or min(values) < 0:
        return None
    if scope.startswith("smart_ratio"):
        return values
    return [density * prod(shape) for density, shape in zip(values, shapes_of(model).values(), strict=True)]


def differences(scope: str, model: str, kept: int, theirs: list[float]) -> list[float]:
    ours = quotas(shapes_of(model), kept, scope)
    assert sum(ours.values()) == kept
    return sorted(abs(our - their) for our, their in zip(ours.values(), theirs, strict=True))


def test_the_published_numbers_are_for_five_models_and_seven_sparsities() -> None:
    assert all(len(numbers) == 35 for numbers in PUBLISHED.values())
    assert set(SCOPES) - PUBLISHED.keys() == {"layer", "uniform", "erk"}


@pytest.mark.parametrize(("scope", "model", "sparsity"), cells("igq", "uniform_plus", "er", "equal"))
def test_quotas_are_those_of_the_published_code_for_the_total_that_it_keeps(
    scope: str, model: str, sparsity: float
) -> None:
    """Its total is not exact: `igq` stops within a weight or two, and RigL rounds every layer down before scaling.

    In `equal`, the total loses what layers smaller than the quota cannot keep: up to 23% of all weights here.
    """
    kept = kept_weights(shapes_of(model), sparsity)
    if (theirs := published(scope, model, sparsity)) is None:
        with pytest.raises(RequestError, match=r"keeps the first layer and 20% of .* \(\d+ weights\), .* in all$"):
            quotas(shapes_of(model), kept, scope)
        return
    assert differences(scope, model, round(sum(theirs)), theirs)[-1] < 1
    missing = kept - sum(theirs)
    if scope == "equal":
        lost = sum(max(0.0, kept / len(theirs) - prod(shape)) for shape in shapes_of(model).values())
        assert abs(missing - lost) < 1
    else:
        assert abs(missing) < {"igq": 2, "uniform_plus": 1, "er": 30}[scope]


@pytest.mark.parametrize(("scope", "model", "sparsity"), cells("smart_ratio", "smart_ratio_vgg"))
def test_smart_ratios_are_those_of_the_published_code(scope: str, model: str, sparsity: float) -> None:
    """It rounds every layer down, and the excess that each dense layer passes on: those of one layer add up."""
    kept = kept_weights(shapes_of(model), sparsity)
    if (theirs := published(scope, model, sparsity)) is None:
        with pytest.raises(RequestError, match=r"keeps 30% of the linear layers \(614400 weights\), but .* in all$"):
            quotas(shapes_of(model), kept, scope)
        return
    *others, largest = differences(scope, model, kept, theirs)
    assert others[-1] <= 2
    assert largest <= len(theirs) / 2
    assert abs(kept - sum(theirs)) <= len(theirs)


@st.composite
def networks(draw: st.DrawFn) -> Shapes:
    """A convolution, then convolutions and linear layers in any order."""
    size = st.integers(1, 40)
    conv, linear = st.tuples(size, size, st.just(3), st.just(3)), st.tuples(size, size)
    rest = draw(st.lists(conv | linear, min_size=1, max_size=8))
    return {str(index): shape for index, shape in enumerate([draw(conv), *rest])}


def allowed(shapes: Shapes, kept: int, scope: str) -> bool:
    """Return whether a scope with a fixed part keeps at most `kept` weights in it; otherwise it says what it keeps."""
    try:
        return bool(quotas(shapes, kept, scope))
    except RequestError as error:
        assert f"scope = {scope!r} keeps" in str(error)  # noqa: PT017
        return False


@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("scope", SCOPES)
@given(shapes=networks(), density=st.floats(0.0001, 1), fewer=st.floats(0, 1))
def test_quotas_are_exact_within_the_layers_and_fall_with_density(
    scope: str, shapes: Shapes, density: float, fewer: float
) -> None:
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    kept = max(1, round(density * sum(sizes.values())))
    fewer_kept = max(1, round(fewer * kept))
    if not allowed(shapes, fewer_kept, scope):
        return
    dense = quotas(shapes, kept, scope)
    assert sum(dense.values()) == kept
    assert all(0 <= dense[name] <= sizes[name] for name in shapes)
    sparse = quotas(shapes, fewer_kept, scope)
    assert all(sparse[name] <= dense[name] + 1 for name in shapes), "+ 1: the largest remainders are rounded up"
    later = quotas(shapes, fewer_kept, scope, dense)
    assert sum(later.values()) == fewer_kept
    assert all(0 <= later[name] <= dense[name] for name in shapes)


@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("scope", ["uniform", "uniform_plus", "igq"])
@given(shapes=networks(), density=st.floats(0.0001, 1))
def test_the_shares_are_the_densities(scope: str, shapes: Shapes, density: float) -> None:
    total = sum(map(prod, shapes.values()))
    kept = max(1, round(density * total))
    if not allowed(shapes, kept, scope):
        return
    function = scopes()[scope].function
    assert function is not None
    shares = function(shapes, kept / total)
    assert sum(shares[name] * prod(shape) for name, shape in shapes.items()) == pytest.approx(kept, rel=1e-12)
    assert all(0 <= share <= 1 for share in shares.values())


@settings(max_examples=100, deadline=None)
@given(shapes=networks(), density=st.floats(0.01, 1))
def test_a_larger_layer_keeps_more_weights_at_a_lower_density(shapes: Shapes, density: float) -> None:
    kept = max(1, round(density * sum(map(prod, shapes.values()))))
    for scope in ("igq", "equal"):
        found = quotas(shapes, kept, scope)
        by_size = sorted((prod(shape), found[name]) for name, shape in shapes.items())
        for (small, fewer), (large, more) in pairwise(by_size):
            assert more >= fewer - 1
            assert more * small <= (fewer + 1) * large + small, "with each rounded by one at most"


def test_uniform_plus_keeps_a_fifth_of_the_last_layer() -> None:
    shapes: Shapes = {"first": (10, 1, 1, 1), "middle": (100, 8), "last": (10, 20)}
    assert quotas(shapes, 110, "uniform_plus") == {"first": 10, "middle": 60, "last": 40}
    assert quotas(shapes, 510, "uniform_plus") == {"first": 10, "middle": 400, "last": 100}


def test_uniform_plus_needs_a_first_convolution_and_treats_the_last_layer_as_others_unless_it_is_linear() -> None:
    with pytest.raises(RequestError, match=r"needs a convolution as first layer, not a \(4, 4\)$"):
        quotas({"a": (4, 4), "b": (4, 4, 3, 3)}, 10, "uniform_plus")
    assert quotas({"a": (1, 4, 3, 3)}, 36, "uniform_plus") == {"a": 36}
    assert quotas({"a": (1, 1, 3, 3), "b": (1, 30, 1, 1)}, 10, "uniform_plus") == {"a": 9, "b": 1}


def test_er_ignores_the_kernel() -> None:
    """(4 + 8) / (4 · 8) of 288 weights and (8 + 10) / (8 · 10) of 80, which keep 108 : 18."""
    assert quotas({"a": (8, 4, 3, 3), "b": (10, 8)}, 63, "er") == {"a": 54, "b": 9}


def test_the_excess_of_smart_ratio_goes_to_the_next_convolution_and_in_the_end_to_the_linear_layers() -> None:
    """Ratios 12, 6 and 2 of 100 weights: 6 for each ratio, and 3 of 10 for the linear layer."""
    shapes = {"a": (10, 10, 1, 1), "b": (10, 10, 1, 1), "c": (1, 10)}
    assert quotas(shapes, 93, "smart_ratio") == {"a": 60, "b": 30, "c": 3}
    assert quotas(shapes, 183, "smart_ratio") == {"a": 100, "b": 80, "c": 3}
    assert quotas(shapes, 208, "smart_ratio") == {"a": 100, "b": 100, "c": 8}
    assert quotas(shapes, 51, "smart_ratio_vgg") == {"a": 43, "b": 5, "c": 3}  # 12 and 6 / 4


def test_random_pruning_with_each_of_these_scopes_is_a_method() -> None:
    own = {entry.scope for _, entry in pruners().items() if entry.needs == ("uniform",)}
    assert own == {None, *SCOPES} - {"uniform"}
