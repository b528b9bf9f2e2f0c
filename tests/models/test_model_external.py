"""Tests of torchvision/NAME and timm/NAME. A stub replaces timm, which is optional."""

from __future__ import annotations

import sys
from math import sqrt
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pbt_bench.errors import RequestError
from pbt_bench.models import build, find
from pbt_bench.models.prunable import matrices_left_out, prunable


def test_torchvision_model_with_its_own_number_of_classes() -> None:
    model = build("torchvision/resnet18", 3, 10, 0, size=32)
    assert sum(p.numel() for p in model.parameters()) == 11_181_642  # as resnet18-imagenet of pbt-bench
    assert len(prunable(model)) == 21
    assert model.training
    assert not any(getattr(module, "inplace", False) for module in model.modules())


def test_torchvision_and_our_imagenet_stem_agree() -> None:
    theirs, ours = build("torchvision/resnet18", 3, 10, 0).eval(), build("resnet18-imagenet", 3, 10, 1).eval()
    values = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(values)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_all_matrices_of_torchvisions_vision_transformer_but_its_positions_are_prunable() -> None:
    model = build("torchvision/vit_b_32", 3, 10, 0, "kaiming", size=224)
    assert len(prunable(model)) == 1 + 12 * 4 + 1
    assert matrices_left_out(model) == ["encoder.pos_embedding"]
    packed = model.get_submodule("encoder.layers.encoder_layer_3.self_attention").get_parameter("in_proj_weight")
    assert packed.std().item() == pytest.approx(sqrt(2 / 768), rel=0.01)


def test_auxiliary_classifiers_are_left_out() -> None:
    model = build("torchvision/googlenet", 3, 4, 0, size=32)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 4)


def test_unknown_torchvision_name_gives_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"unknown model 'torchvision/resnet_18' .*nearest: 'torchvision/resnet18'"):
        find("torchvision/resnet_18")


@pytest.mark.parametrize(
    ("name", "channels", "size", "reason"),
    [
        ("torchvision/resnet18", 1, 32, "images of 3 channels, 'torchvision/resnet18' got 1"),
        ("torchvision/vit_b_32", 3, 32, "'torchvision/vit_b_32' cannot take 32x32 images"),
        ("torchvision/alexnet", 3, 32, "'torchvision/alexnet' cannot take 32x32 images"),
    ],
)
def test_what_cannot_be_run_honestly_is_refused(name: str, channels: int, size: int, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        build(name, channels, 10, 0, size=size)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace timm by a stub, and return the list of the arguments of every created model."""
    calls: list[dict[str, Any]] = []

    def create_model(name: str, **options: Any) -> nn.Module:
        calls.append({"name": name} | options)
        if options.get("img_size", 16) % 16:
            raise AssertionError("the image does not divide into patches")
        block = nn.ReLU(inplace=True)
        block.fused_attn = True  # type: ignore[assignment]
        outputs = options["num_classes"] + (name == "features")
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), block, nn.Linear(options["in_chans"], outputs))

    configs = {"plain": SimpleNamespace(fixed_input_size=False), "vit": SimpleNamespace(fixed_input_size=True)}
    library = SimpleNamespace(
        list_models=lambda: ["features", "plain", "vit"],
        create_model=create_model,
        models=SimpleNamespace(get_pretrained_cfg=configs.get),
    )
    monkeypatch.setitem(sys.modules, "timm", library)
    return calls


def test_timm_model_is_untrained_and_made_fit_for_scoring(timm: list[dict[str, Any]]) -> None:
    model = build("timm/plain", 2, 5, 0, size=32)
    assert timm == [{"name": "plain", "pretrained": False, "in_chans": 2, "num_classes": 5}]
    assert model.training
    assert [(m.inplace, m.fused_attn) for m in model.modules() if isinstance(m, nn.ReLU)] == [(False, False)]


def test_timm_loads_its_pretrained_weights(timm: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    build("timm/plain", 2, 5, 0, "pretrained", size=32)
    assert [call["pretrained"] for call in timm] == [True]

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network\nat all")

    monkeypatch.setattr(sys.modules["timm"], "create_model", offline)
    with pytest.raises(RequestError, match=r"^model 'timm/plain' with its pretrained weights: no network$"):
        build("timm/plain", 2, 5, 0, "pretrained", size=32)


def test_timm_model_with_fixed_positions_gets_the_size(timm: list[dict[str, Any]]) -> None:
    build("timm/vit", 3, 5, 0, size=32)
    build("timm/vit", 3, 5, 0)
    assert [call.get("img_size") for call in timm] == [32, None]
    with pytest.raises(RequestError, match="'timm/vit' cannot be built for these images: the image does not divide"):
        build("timm/vit", 3, 5, 0, size=30)


@pytest.mark.usefixtures("timm")
def test_timm_errors() -> None:
    with pytest.raises(RequestError, match="unknown model 'timm/plane' .*nearest: 'timm/plain'"):
        find("timm/plane")
    with pytest.raises(RequestError, match="'timm/features' is no classifier"):
        build("timm/features", 3, 5, 0, size=32)


def test_missing_timm_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RequestError, match=r"models 'timm/NAME' need the package timm \(pip install timm\)"):
        find("timm/resnet18")
