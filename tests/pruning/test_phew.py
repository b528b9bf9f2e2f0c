"""PHEW: the walks' probabilities by hand, complete paths, and the networks that walks can and cannot pass."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import ConvNet, mlp
from torch import Tensor, nn

import pbt_bench
from pbt_bench.connectivity.channel_graph import Wire, channel_graph
from pbt_bench.connectivity.random_walks import Walks
from pbt_bench.errors import RequestError
from pbt_bench.models import build
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning.masks import Ranking
from pbt_bench.pruning.statistics import path_walks as module


def score(model: nn.Module, *shape: int, seed: int = 0, **scoring: Any) -> dict[str, Tensor]:
    data = [(torch.zeros(2, *shape), torch.zeros(2).long())]
    return pbt_bench.score(model, data, method="phew", generator=torch.Generator().manual_seed(seed), **scoring)


def visits(model: nn.Module, walks: int, *shape: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Per weight tensor: how often forward and how often backward walks take every weight, divided by their number."""
    weights = prunable(model)
    found = {name: (torch.zeros(p.numel()), torch.zeros(p.numel())) for name, p in weights.items()}
    graph = channel_graph(model.eval(), weights, torch.zeros(1, *shape), "path_walks")
    for name, index, walk in Walks(graph, "path_walks").run(0, walks, torch.Generator().manual_seed(1)):
        for direction in (0, 1):
            mine = index[walk % 2 == direction]
            found[name][direction].index_add_(0, mine, torch.full((len(mine),), 2 / walks))
    return {name: (a.view_as(weights[name]), b.view_as(weights[name])) for name, (a, b) in found.items()}


def test_walks_take_weights_with_the_probabilities_of_the_definition() -> None:
    net = mlp(3, 4, 2, seed=3)
    walks = 200_000
    found = visits(net, walks, 3)
    first, last = (w.detach().abs() for w in prunable(net).values())
    out_of, into = first / first.sum(0), last / last.sum(1, keepdim=True)
    expected = {
        "0.weight": (out_of / 3, (first / first.sum(1, keepdim=True)) * (into.mean(0)[:, None])),
        "2.weight": ((last / last.sum(0)) * (out_of.mean(1)), into / 2),
    }
    for name, pair in expected.items():
        for observed, p in zip(found[name], pair, strict=True):
            assert float(p.sum()) == pytest.approx(1)
            deviations = (observed - p) / (p * (1 - p) * 2 / walks).sqrt()
            assert float(deviations.abs().max()) < 4.5


def test_walks_take_identity_shortcuts_and_follow_paths_of_the_network() -> None:
    net = build("resnet20-projection", 3, 10, 0)
    weights = prunable(net)
    graph = channel_graph(net.eval(), weights, torch.zeros(1, 3, 8, 8), "path_walks")
    walks = 4000
    passed = {name: torch.zeros(walks, dtype=torch.bool) for name in weights}
    for name, _, walk in Walks(graph, "path_walks").run(0, walks, torch.Generator().manual_seed(1)):
        passed[name][walk] = True
    blocks = [name.removesuffix("conv2.weight") for name in weights if name.endswith("conv2.weight")]
    assert len(blocks) == 9
    for block in blocks:
        first, second = passed[f"{block}conv1.weight"], passed[f"{block}conv2.weight"]
        assert torch.equal(first, second), "a walk passes both convolutions of a block or none"
        for direction in (0, 1):
            assert 0.45 < float(first[direction::2].float().mean()) < 0.55
        if (shortcut := passed.get(f"{block}shortcut.0.weight")) is not None:
            assert torch.equal(shortcut, ~first)
    assert bool((passed["conv1.weight"] & passed["classifier.weight"]).all())


def test_convolutions_choose_among_units_and_kernel_positions_of_the_group() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    walks = 200_000
    forward, backward = visits(net, walks, 4, 3, 3)["0.weight"]
    w = net[0].weight.detach().abs()
    grouped = w.view(2, 3, 2, 9)
    expected = (grouped / grouped.sum((1, 3), keepdim=True)).view_as(w) / 4
    for observed, p in ((forward, expected), (backward, w / w.sum((1, 2, 3), keepdim=True) / 6)):
        assert float(((observed - p) / (p * 2 / walks).sqrt()).abs().max()) < 5


def test_masks_whose_threshold_falls_between_walks_are_complete_paths() -> None:
    net = ConvNet()
    scores = score(net, 3, 8, 8)
    counts = Counter(torch.cat([s.flatten() for s in scores.values()]).tolist())
    kept = 0
    for number, value in enumerate(sorted(counts, reverse=True)[:150]):
        kept += counts[value]
        masks = {name: s >= value for name, s in scores.items()}
        if number % 10:
            continue
        diagnosis = pbt_bench.diagnose(net, masks, torch.zeros(1, 3, 8, 8))
        assert diagnosis.connected
        assert sum(layer.live for layer in diagnosis.layers) == kept == diagnosis.kept


def test_scores_depend_on_the_seed_alone() -> None:
    net = build("vgg8", 1, 10, 0)
    a, b, c = (score(net, 1, 8, 8, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize(("name", "channels"), [("resnet8", 1), ("resnet20", 3), ("vgg8", 1)])
def test_models_stay_connected_and_every_layer_keeps_weights(name: str, channels: int) -> None:
    net = build(name, channels, 10, 0)
    scores = score(net, channels, 8, 8)
    diagnosis = pbt_bench.diagnose(net, Ranking(scores, "global").masks(0.98), torch.zeros(1, channels, 8, 8))
    assert diagnosis.connected
    assert not diagnosis.collapsed_layers
    assert diagnosis.effective_sparsity < 0.981  # some kernel positions lead out of images of 2x2 pixels


def test_walks_pass_a_classifier_that_is_not_prunable() -> None:
    net = ConvNet()
    scores = score(net, 3, 8, 8, prune_classifier=False)
    assert list(scores) == ["conv1.weight", "conv2.weight", "conv3.weight"]
    assert all(bool(s.isfinite().all()) for s in scores.values())


def test_weights_that_no_walk_visits_rank_last_by_magnitude(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pbt_bench.pruning.tuning.WALKS_AT_ONCE", 2)
    monkeypatch.setattr(module, "VISITED_SHARE", 0.0)
    net = mlp(6, 8, 3)
    scores = torch.cat([s.flatten() for s in score(net, 6).values()])
    weights = torch.cat([w.detach().abs().flatten() for w in prunable(net).values()])
    visited = (scores == -1) | (scores == -2)
    assert 3 <= int(visited.sum()) <= 4  # two walks of two weights each
    assert float(scores[~visited].max()) <= -4
    assert torch.equal(scores[~visited].argsort(), weights[~visited].argsort())


def test_a_unit_whose_weights_are_all_zero_chooses_among_all_of_them() -> None:
    net = mlp(2, 3, 2)
    with torch.no_grad():
        net[0].weight.zero_()
        net[2].weight[0, 0] = 0
    forward, _ = visits(net, 60_000, 2)["0.weight"]
    assert float((forward - 1 / 6).abs().max()) < 0.01
    assert all(float(share[0, 0]) == 0 for share in visits(net, 1000, 2)["2.weight"])


class Wired(nn.Module):
    """Groups, a dense block, features of a flattened image, padded channels, a branch that leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.lost = nn.Conv2d(4, 4, 1)
        self.c = nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular")
        self.head = nn.Linear(8 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        self.lost(x)
        x = torch.cat([x, self.b(x)], 1)
        x = F.pad(x[:, :6], (0, 0, 0, 0, 0, 2)) + F.pad(self.c(x), (0, 0, 0, 0, 2, 0))
        x += 1
        return self.head(F.max_pool2d(x, 2).flatten(1))


def test_channels_are_followed_through_concatenation_padding_slices_and_flattening() -> None:
    torch.manual_seed(0)
    net = Wired()
    graph = channel_graph(net, prunable(net), torch.zeros(1, 2, 6, 6), "path_walks")
    wires = [edge for edge in graph.edges if isinstance(edge, Wire)]
    assert [w.index.tolist() for w in wires[:2]] == [[0, 1, 2, 3, -1, -1, -1, -1], [-1, -1, -1, -1, 0, 1, 2, 3]]
    assert wires[2].index.tolist() == [0, 1, 2, 3, 4, 5]
    assert wires[-1].index.tolist() == [j // 9 for j in range(72)]
    scores = score(net, 2, 6, 6)
    worst = min(float(s.max()) for name, s in scores.items() if name != "lost.weight")
    assert float(scores["lost.weight"].max()) < worst
    diagnosis = pbt_bench.diagnose(net, Ranking(scores, "global").masks(0.9), torch.zeros(1, 2, 6, 6))
    assert diagnosis.connected
    assert diagnosis.effective_sparsity < 0.906


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * self.b(x)


def test_networks_whose_channels_cannot_be_followed_are_refused_by_the_function_name() -> None:
    with pytest.raises(RequestError, match="path_walks needs channels that can be followed.*'mul'"):
        score(Product(), 3)
    with pytest.raises(RequestError, match="path_walks needs channels that stay on dimension 1.*'transpose'"):
        score(build("vit-tiny", 3, 10, 0, size=8), 3, 8, 8)
    with pytest.raises(RequestError, match="path_walks needs inputs of shape .n, channels, .....*tokens.*'linear'"):
        score(nn.Linear(5, 5), 5, 5)
