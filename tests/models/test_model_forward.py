"""Tests of the outputs of models, and of interception, float64 and second derivatives, which scoring needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from pbt_bench.linear_maps import Intercept
from pbt_bench.models import MODELS, build
from pbt_bench.models.prunable import prunable
from pbt_bench.models.resnet import Pad
from pbt_bench.models.vgg import Pool

SHALLOW = ["resnet20", "resnet20-projection", "resnet18", "resnet18-imagenet", "vgg11-bias", "lenet5", "vit-tiny"]


SIZES = [(name, 8) for name in MODELS if name != "lenet5"]  # its two 5x5 convolutions have no padding
SIZES += [(name, 28) for name, entry in MODELS.items() if entry.size == "needed"]


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_logits_for_images_from_8x8_up_of_any_channels(name: str, size: int) -> None:
    with torch.device("meta"):
        model = build(name, 2, 7, 0, size=size)
        assert model(torch.zeros(3, 2, size, size)).shape == (3, 7)


@pytest.mark.parametrize("name", ["resnet20", "resnet50", "vgg16", "wrn-28-10"])
def test_convolutional_models_need_no_size_and_no_even_sides(name: str) -> None:
    with torch.device("meta"):
        assert build(name, 1, 10, 0)(torch.zeros(2, 1, 27, 13)).shape == (2, 10)


@pytest.mark.parametrize(("stem", "side"), [("", 32), ("-tiny-imagenet", 16), ("-imagenet", 8)])
def test_stems_reduce_the_resolution_by_1_2_and_4(stem: str, side: int) -> None:
    shapes = []
    with torch.device("meta"):
        model = build(f"resnet18{stem}", 3, 10, 0)
        first, last = model.stages[0], model.stages[3]  # type: ignore[index]
        for stage in (first, last):
            stage.register_forward_hook(lambda _module, _inputs, out: shapes.append(tuple(out.shape)))
        model(torch.zeros(2, 3, 32, 32))
    assert shapes == [(2, 64, side, side), (2, 512, side // 8, side // 8)]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet20", (64, 8, 8)),
        ("resnet32x2-projection", (128, 8, 8)),
        ("resnet50", (2048, 4, 4)),
        ("wrn-28-10", (640, 8, 8)),
        ("vgg11", (512, 2, 2)),
        ("vgg19-bias", (512, 2, 2)),
    ],
)
def test_features_of_a_32x32_image_have_the_literatures_shape(name: str, shape: tuple[int, ...]) -> None:
    found = []
    with torch.device("meta"):
        model = build(name, 3, 10, 0)
        trunk = model.get_submodule("features" if "vgg" in name else "stages")
        trunk.register_forward_hook(lambda _module, _inputs, out: found.append(tuple(out.shape[1:])))
        model(torch.zeros(2, 3, 32, 32))
    assert found == [shape]


@pytest.mark.parametrize(("inputs", "outputs", "side"), [(3, 5, 8), (4, 8, 7), (4, 4, 6)])
def test_free_shortcut_is_a_projection_by_a_fixed_partial_identity(inputs: int, outputs: int, side: int) -> None:
    x = torch.randn(2, inputs, side, side)
    identity = torch.eye(outputs, inputs)[:, :, None, None]
    assert torch.equal(Pad(inputs, outputs, 2)(x), F.conv2d(x, identity, stride=2))


def test_pooling_is_pytorchs_until_one_pixel_is_left() -> None:
    x = torch.randn(2, 3, 7, 8)
    assert torch.equal(Pool()(x), F.max_pool2d(x, 2))
    row = torch.randn(2, 3, 1, 4)
    assert torch.equal(Pool()(row), row.view(2, 3, 1, 2, 2).amax(-1))
    assert torch.equal(Pool()(row[..., :1]), row[..., :1])


def test_attention_is_that_of_pytorch() -> None:
    from pbt_bench.models.vit import Attention

    ours, x = Attention(12, 3).double(), torch.randn(2, 5, 12, dtype=torch.float64)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    state = {"in_proj_weight": ours.qkv.weight, "in_proj_bias": ours.qkv.bias}
    theirs.load_state_dict(state | {"out_proj.weight": ours.output.weight, "out_proj.bias": ours.output.bias})
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


@pytest.mark.parametrize("name", [*SHALLOW, "vgg16", "lenet-300-100", "resnet8"])
def test_no_module_works_in_place(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 3, 10, 0, size=32)
    assert not any(getattr(module, "inplace", False) for module in model.modules())


class Record(Intercept):
    """Recorder of the names of the used weights, in order."""

    def __init__(self, tracked: dict[str, nn.Parameter]) -> None:
        super().__init__(tracked)
        self.used: list[str] = []

    def apply(self, name: str, function: Any, inputs: Tensor, weight: Tensor, bias: Any, options: Any) -> Tensor:
        self.used.append(name)
        return function(inputs, weight, bias, **options)


@pytest.mark.parametrize("name", [*SHALLOW, "resnet50", "wrn-28-10", "vgg19", "lenet-300-100", "resnet110"])
def test_every_prunable_weight_is_used_once_where_scoring_can_see_it(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 3, 10, 0, size=16)
        record = Record(prunable(model))
        with record:
            model(torch.zeros(2, 3, 16, 16))
    assert sorted(record.used) == sorted(prunable(model))


@pytest.mark.parametrize("name", [*SHALLOW, "resnet110"])
def test_synaptic_flow_in_float64_is_finite_and_reaches_every_weight(name: str) -> None:
    model = build(name, 3, 10, 0, "kaiming", size=16).eval()
    state = {key: value.detach().double().abs() for key, value in model.state_dict().items()}
    flows = {key: state[key].requires_grad_() for key in prunable(model)}
    total = functional_call(model, state, (torch.ones(1, 3, 16, 16, dtype=torch.float64),)).sum()
    found = torch.autograd.grad(total, list(flows.values()))
    assert all(bool(flow.isfinite().all()) and bool(flow.any()) for flow in found)


@pytest.mark.parametrize("name", ["resnet20", "vgg11", "lenet5", "vit-tiny"])
def test_second_derivatives_exist(name: str) -> None:
    model = build(name, 1, 10, 0, size=16)
    weights = list(prunable(model).values())
    loss = F.cross_entropy(model(torch.randn(4, 1, 16, 16)), torch.arange(4))
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    again = torch.autograd.grad(torch.stack([g.square().sum() for g in gradients]).sum(), weights)
    assert all(bool(g.isfinite().all()) for g in again)


@pytest.mark.parametrize("name", SHALLOW)
def test_examples_do_not_mix_in_eval_mode(name: str) -> None:
    model, images = build(name, 3, 10, 0, size=16).eval(), torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-4, atol=1e-5)
