"""Tests of the metrics of masks against plain autograd and published code."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from networks import GOLDEN, Odd, golden, mlp, published, random_masks
from torch import Tensor, nn

import pbt_bench
from pbt_bench.models import build
from pbt_bench.pruning import batchnorm
from pbt_bench.pruning.diagnosis import all_kept, diagnose
from pbt_bench.pruning.mask_metrics import METRICS, MeasuredMask, measure
from pbt_bench.running.record import MaskMetrics

CHANNELS = json.loads(GOLDEN.with_name("mask_metrics.json").read_text())["channels"]


class Attentive(nn.Module):
    """Attention among tokens, added to them, and a linear layer of their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))
        return mixed


def measured(net: nn.Module, masks: dict[str, Tensor], x: Tensor, y: Tensor) -> MeasuredMask:
    pbt_bench.apply(net, masks)
    return measure(net, masks, x, y, diagnose(net, masks, x))


def plainly(net: nn.Module, masks: dict[str, Tensor], x: Tensor, y: Tensor, samples: int) -> tuple[float, float]:
    """Compute gradient norm and trace by one backward pass per logit; the network is changed."""
    pbt_bench.apply(net, masks)
    batchnorm.set_mode(net, "calibrated", [(x, y)])
    weights = [dict(net.named_parameters())[name] for name in masks]

    def square(value: Tensor) -> float:
        found = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
        return sum(float((own * mask).square().sum()) for own, mask in zip(found, masks.values(), strict=True))

    trace = sum(square(logit) for logit in net(x[:samples]).flatten()) / samples
    return math.sqrt(square(F.cross_entropy(net(x), y))), trace


def networks() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    net, x, y, _ = golden()
    torch.manual_seed(0)
    odd, images = Odd(), torch.randn(12, 4, 9, 8)
    attentive, tokens = Attentive(), torch.randn(12, 5, 6)
    return {
        "batchnorm": (net.double(), x.double(), y),
        "linear": (mlp(6, 8, 5), torch.randn(20, 6, dtype=torch.float64), torch.arange(20) % 5),
        "odd": (odd.double(), images.double(), torch.arange(12) % 5),
        "attention": (attentive.double(), tokens.double(), torch.arange(12) % 3),
    }


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize("density", [1.0, 0.4])
def test_gradient_norm_and_trace_are_those_of_plain_autograd(name: str, density: float) -> None:
    net, x, y = networks()[name]
    masks = random_masks(net, density)
    values = measured(net, masks, x, y).values
    classes = net(x[:1]).shape[-1]
    norm, trace = plainly(net, masks, x, y, min(80 // classes, len(x)))
    assert values["gradient_norm"] == pytest.approx(norm)
    assert values["ntk_trace"] == pytest.approx(trace)
    assert values["live_unit_share"] == 1 or density < 1
    assert values["log10_paths"] > 0


def test_a_metric_is_a_field_of_a_record() -> None:
    assert tuple(metric.__name__ for metric in METRICS) == MaskMetrics.__struct_fields__


@pytest.mark.parametrize("case", CHANNELS)
def test_live_units_are_the_effective_channels_of_the_published_code(case: str) -> None:
    """The live outputs of a layer of a chain are the effective inputs of the next."""
    name, density = case.split(".", 1)
    net, x, _ = published(name)
    found = {layer.name: layer for layer in diagnose(net, random_masks(net, float(density)), x).layers}
    if name == "ConvNoBias":
        assert [layer.live_units for layer in found.values()] == CHANNELS[case][1:]
    else:  # the inputs of a block are those of its first convolution and of its shortcut
        inner = [found[f"layer{a}.{b}.conv1.weight"].live_units for a in (1, 2) for b in (0, 1)]
        assert inner == CHANNELS[case][2:9:2]
        assert found["linear.weight"].live_units == CHANNELS[case][-1]
    assert all(layer.units == layer.shape[0] for layer in found.values())


def test_metrics_of_empty_layers_and_dead_networks() -> None:
    net = build("resnet8", 1, 10, 0, size=8)
    x, y = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10
    masks = all_kept(net)
    whole = measured(net, masks, x, y)
    inner = next(name for name in masks if "conv1" in name and "stages" in name)
    masks[inner][:] = False
    part = measured(net, masks, x, y)
    assert part.gaps[inner] is None
    assert None not in part.values.values()
    for name in ("live_unit_share", "log10_paths", "ntk_trace"):
        assert part.values[name] < whole.values[name]
    dead = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    assert measured(net, dead, x, y).values == {
        "live_unit_share": 0.0, "log10_paths": None, "ramanujan_gap": None, "gradient_norm": 0.0, "ntk_trace": 0.0
    }  # fmt: skip


def test_without_independent_samples_there_is_no_trace() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3))
    x, y = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3
    values = measured(net, all_kept(net), x, y).values
    assert values["ntk_trace"] is None
    assert values["gradient_norm"] == pytest.approx(plainly(net, all_kept(net), x, y, 2)[0], rel=1e-4)


def test_the_network_and_the_random_stream_come_back_bit_identical() -> None:
    net = build("resnet8", 1, 10, 0, size=8).train()
    x, y = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10
    net(x).sum().backward()
    before = [tensor.clone() for tensor in net.state_dict().values()]
    gradients, random = [p.grad for p in net.parameters()], torch.get_rng_state()
    measure(net, all_kept(net), x, y, diagnose(net, all_kept(net), x))
    assert all(map(torch.equal, before, net.state_dict().values()))
    assert all(p.grad is gradient for p, gradient in zip(net.parameters(), gradients, strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert all(module.training for module in net.modules())
