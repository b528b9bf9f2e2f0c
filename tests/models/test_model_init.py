"""Tests that initial weights depend only on the seed of the run."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import nn

from pbt_bench.models import build
from pbt_bench.models.prunable import packed_projections, prunable

SMALL = ["resnet8", "vgg8", "resnet20", "resnet20-projection", "lenet-300-100", "lenet5", "vit-tiny"]


def weights(name: str, seed: int, init: str = "default") -> dict[str, torch.Tensor]:
    return build(name, 3, 10, seed, init, size=32).state_dict()


@pytest.mark.parametrize("init", ["default", "kaiming", "orthogonal"])
@pytest.mark.parametrize("name", [*SMALL, "torchvision/mobilenet_v3_small"])
def test_weights_follow_from_the_seed_and_not_from_the_global_generator(name: str, init: str) -> None:
    torch.manual_seed(0)
    first = weights(name, 3, init)
    torch.manual_seed(1)
    second, other = weights(name, 3, init), weights(name, 4, init)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", [*SMALL, "torchvision/squeezenet1_1"])
def test_building_leaves_the_global_generator_alone(name: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build(name, 3, 10, 0, "kaiming", size=32)
    assert torch.equal(torch.get_rng_state(), before)


def test_shortcut_kind_changes_no_other_layer_of_the_first_stage() -> None:
    free, projected = weights("resnet20", 0), weights("resnet20-projection", 0)
    same = [key for key in free if key.startswith(("conv1", "stages.0"))]
    assert same
    assert all(torch.equal(free[key], projected[key]) for key in same)


@pytest.mark.parametrize("name", ["resnet18", "vgg11-bias", "lenet-300-100", "vit-tiny"])
def test_kaiming_is_normal_with_the_variance_of_two_over_fan_in(name: str) -> None:
    model = build(name, 3, 10, 0, "kaiming", size=32)
    for key, weight in prunable(model).items():
        fan_in = weight[0].numel()
        n = weight.numel()
        deviation = sqrt(2 / fan_in)
        assert abs(weight.mean().item()) < 5 * deviation / sqrt(n), key
        assert abs(weight.std().item() / deviation - 1) < 5 / sqrt(2 * n), key
        kurtosis = ((weight / deviation) ** 4).mean().item()
        assert abs(kurtosis - 3) < 5 * sqrt(96 / n) + 1e-3, key  # a uniform distribution has 1.8
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            assert not module.bias.any()


@pytest.mark.parametrize("name", ["resnet8", "lenet-300-100", "vit-tiny"])
def test_orthogonal_matrices_are_orthogonal(name: str) -> None:
    model = build(name, 3, 10, 0, "orthogonal", size=32)
    packed = packed_projections(model)
    for key, weight in prunable(model).items():
        for matrix in weight.chunk(3) if key in packed else [weight.flatten(1)]:
            short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            torch.testing.assert_close(short @ short.T, 2 * torch.eye(len(short)), atol=1e-5, rtol=1e-5)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            assert not module.bias.any()


def test_default_is_pytorchs_own_for_every_layer() -> None:
    for weight in prunable(build("resnet20", 3, 10, 0)).values():
        bound = 1 / sqrt(weight[0].numel())  # uniform: kaiming_uniform_ with a = sqrt(5)
        assert weight.abs().max() <= bound
        assert weight.abs().max() > 0.9 * bound
