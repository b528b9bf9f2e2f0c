"""Tests of the number of paths, against enumeration on small networks and against published code."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from connectivity.test_live_weights import Wired
from networks import GOLDEN, published, random_masks
from torch import Tensor, nn

from pbt_bench.connectivity.path_counts import log10_paths
from pbt_bench.models import build
from pbt_bench.pruning.diagnosis import all_kept

PUBLISHED = json.loads(GOLDEN.with_name("mask_metrics.json").read_text())["paths"]
Unit = tuple[int, ...]


class Node:
    """A unit of an unrolled network and the units before it."""

    def __init__(self, before: Callable[[], Iterator[Node]] | None = None) -> None:
        self.before = before

    def paths(self) -> Iterator[tuple[Node, ...]]:
        """Yield every path from an input to this unit."""
        if self.before is None:
            yield (self,)
            return
        for node in self.before():
            for path in node.paths():
                yield (*path, self)


Layer = dict[Unit, Node]


def inputs_of(*shape: int) -> Layer:
    return {unit: Node() for unit in product(*map(range, shape))}


def convolved(layer: Layer, mask: Tensor, size: int, stride: int, padding: int, groups: int = 1) -> Layer:
    outputs, fan_in, kernel, _ = mask.shape

    def before(o: int, y: int, x: int) -> Iterator[Node]:
        for i, a, b in product(range(fan_in), range(kernel), range(kernel)):
            unit = (i + o // (outputs // groups) * fan_in, y * stride + a - padding, x * stride + b - padding)
            if mask[o, i, a, b] and unit in layer:
                yield layer[unit]

    return {unit: Node(partial(before, *unit)) for unit in product(range(outputs), range(size), range(size))}


def window(layer: Layer, kernel: int) -> Layer:
    def before(c: int, y: int, x: int) -> Iterator[Node]:
        yield from (layer[c, y * kernel + a, x * kernel + b] for a, b in product(range(kernel), range(kernel)))

    units = {(c, y // kernel, x // kernel) for c, y, x in layer}
    return {unit: Node(partial(before, *unit)) for unit in sorted(units)}


def added(one: Layer, other: Layer) -> Layer:
    return {unit: Node(partial(iter, (one[unit], other[unit]))) for unit in one}


def dense(layer: Layer, mask: Tensor) -> Layer:
    nodes = list(layer.values())

    def before(o: int) -> Iterator[Node]:
        yield from (nodes[i] for i in mask[o].nonzero().flatten().tolist())

    return {(o,): Node(partial(before, o)) for o in range(len(mask))}


@pytest.mark.parametrize("density", [1.0, 0.5, 0.2])
def test_paths_of_a_residual_network_are_those_that_can_be_enumerated(density: float) -> None:
    net = Wired(
        lambda m, x: m.fc(F.max_pool2d(F.relu(m.b(F.relu(m.bn(m.a(x)))) + m.short(x)), 2).mean((2, 3))),
        a=nn.Conv2d(2, 2, 3, padding=1, groups=2), bn=nn.BatchNorm2d(2), b=nn.Conv2d(2, 2, 2, stride=1, bias=True),
        short=nn.Conv2d(2, 2, 2, bias=False), fc=nn.Linear(2, 2),
    )  # fmt: skip
    masks = random_masks(net, density)
    masks["fc.weight"][0] = True
    x = inputs_of(2, 5, 5)
    hidden = convolved(convolved(x, masks["a.weight"], 5, 1, 1, groups=2), masks["b.weight"], 4, 1, 0)
    pooled = window(window(added(hidden, convolved(x, masks["short.weight"], 4, 1, 0)), 2), 2)
    paths = sum(1 for output in dense(pooled, masks["fc.weight"]).values() for _ in output.paths())
    assert paths > 10
    assert log10_paths(net, masks, torch.zeros(1, 2, 5, 5)) == pytest.approx(math.log10(paths))


@pytest.mark.parametrize("case", PUBLISHED)
def test_paths_are_those_of_the_published_code(case: str) -> None:
    """The last layer reads a mean over 16 positions, which the published code does not rescale."""
    name, density = case.split(".", 1)
    net, x, _ = published(name)
    (net.fc if name == "ConvNoBias" else net.linear).bias = None
    found = log10_paths(net, random_masks(net, float(density)), x)
    assert found == pytest.approx(math.log10(PUBLISHED[case] * 16))


def paths(wires: Callable[[Wired, Tensor], Tensor], *shape: int, **members: nn.Module | nn.Parameter) -> float:
    net = Wired(wires, **members)
    found = log10_paths(net, all_kept(net), torch.ones(1, *shape))
    assert found is not None
    return 10**found


def test_windows_of_poolings_are_counted() -> None:
    def after(pool: Callable[[Tensor], Tensor], size: int) -> float:
        return paths(lambda m, x: m.fc(pool(x).flatten(1).sum(1, keepdim=True)), 1, size, size, fc=nn.Linear(1, 1))

    assert after(lambda x: F.max_pool2d(x, 3, 1, 1), 4) == pytest.approx(100)  # windows of 2 or 3 rows: 10 by 10
    assert after(lambda x: F.avg_pool2d(x, 2, ceil_mode=True), 5) == pytest.approx(25)
    assert after(lambda x: F.max_pool2d(x, 2, 1, dilation=2), 4) == pytest.approx(16)
    assert after(lambda x: F.adaptive_avg_pool2d(x, 3), 5) == pytest.approx(49)  # 2, 3 and 2 rows
    assert after(lambda x: F.adaptive_max_pool2d(x, (1, 1)), 5) == pytest.approx(25)
    assert after(lambda x: x.amax((2, 3)), 5) == pytest.approx(25)
    assert after(lambda x: x.mean((2, 3), keepdim=True), 5) == pytest.approx(25)


def test_products_concatenations_and_constants() -> None:
    fc = nn.Linear(4, 2)
    assert paths(lambda m, x: m.fc(x) * m.fc(x).sigmoid(), 4, fc=fc) == pytest.approx(16)
    assert paths(lambda m, x: m.fc(x * 2 + 1) / 3, 4, fc=fc) == pytest.approx(8)
    assert paths(lambda m, x: torch.cat([m.fc(x), m.token.expand(1, 2)], 1), 4, fc=fc, token=nn.Parameter(
        torch.ones(2))) == pytest.approx(8)  # fmt: skip
    assert paths(lambda m, x: m.fc(x).relu_().add_(m.fc(x)), 4, fc=fc) == pytest.approx(16)
    assert paths(lambda m, x: m.fc(m.fc.weight.sum() * x), 4, fc=fc) > 0
    assert paths(lambda m, x: m.fc(torch.ones_like(x)), 4, fc=fc) == 0


def test_paths_through_attention_lead_through_queries_keys_and_values() -> None:
    tokens, width, heads = 3, 4, 2
    by_values = tokens * width * tokens * width * width  # from a token's feature, to a value, to a token, to an output
    by_queries = tokens * width * width * tokens * (width // heads) * width  # ... to a query, to each of its products,
    by_keys = by_queries  # to the features of the query's token and head, to an output
    found = paths(lambda m, x: m.attention(x, x, x)[0], tokens, width,
                  attention=nn.MultiheadAttention(width, heads, batch_first=True))  # fmt: skip
    assert found == pytest.approx(by_values + by_queries + by_keys)


def test_a_depth_that_overflows_is_counted() -> None:
    depth, width = 400, 10
    net = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth)))
    assert log10_paths(net, all_kept(net), torch.ones(1, width)) == pytest.approx(depth + 1)
    residual = Wired(lambda m, x: x + net(x), net=net)
    assert log10_paths(residual, all_kept(residual), torch.ones(1, width)) == pytest.approx(depth + 1)
    masks = all_kept(residual)
    masks["net.200.weight"][:] = False
    assert log10_paths(residual, masks, torch.ones(1, width)) == pytest.approx(1), "the shortcut alone"


def test_no_path_is_minus_infinity_and_integers_have_no_count() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    masks = all_kept(net)
    masks["2.weight"][:] = False
    assert log10_paths(net, masks, torch.ones(1, 3)) == -math.inf
    assert log10_paths(net, all_kept(net), torch.ones(1, 3, dtype=torch.int64)) is None


def test_an_excluded_classifier_counts_as_kept() -> None:
    net = build("resnet8", 1, 10, 0, size=8)
    x = torch.ones(1, 1, 8, 8)
    found = [log10_paths(net, all_kept(net, prune_classifier), x) for prune_classifier in (True, False)]
    assert found[0] == pytest.approx(found[1])


def test_the_network_and_the_random_stream_are_unchanged() -> None:
    net = build("resnet8", 1, 10, 0, size=8).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random = torch.get_rng_state()
    log10_paths(net, all_kept(net), torch.ones(1, 1, 8, 8))
    assert torch.equal(random, torch.get_rng_state())
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
