"""Tests of the catalogue: names, summaries, errors, and the two small models of recorded results."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from pbt_bench.errors import RequestError
from pbt_bench.models import MODELS, Model, build, find, listing

NAMES = [
    *("resnet8", "vgg8", "resnet18", "resnet34", "resnet50", "resnet18-imagenet", "resnet18-tiny-imagenet"),
    *(f"resnet{depth}{kind}" for depth in (20, 32, 56, 110, 1202) for kind in ("", "-projection")),
    *("resnet32x2", "resnet32x2-projection", "wrn-28-2", "wrn-28-10", "conv6", "lenet-300-100", "lenet5", "vit-tiny"),
    *(f"vgg{depth}{kind}" for depth in (11, 13, 16, 19) for kind in ("", "-bias")),
]


def digest(model: nn.Module) -> str:
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(name.encode() + b"\0" + str(tuple(tensor.shape)).encode() + tensor.numpy().tobytes())
    return total.hexdigest()[:16]


@pytest.mark.parametrize(("name", "expected"), [("resnet8", "965862486716c561"), ("vgg8", "ff5b569cf92943a9")])
def test_small_models_keep_the_initial_bits_that_results_were_recorded_with(name: str, expected: str) -> None:
    assert digest(build(name, 1, 10, seed=7)) == expected


@pytest.mark.parametrize(("name", "answer"), [("resnet8", 2.681022584438324), ("vgg8", -0.3482928853482008)])
def test_small_models_keep_their_function_and_kaiming_initialisation(name: str, answer: float) -> None:
    images = torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8)
    model = build(name, 3, 10, 7, "kaiming").eval()
    assert model(images).double().sum().item() == pytest.approx(answer, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_promised_name_is_there(name: str) -> None:
    assert name in MODELS
    assert find(name) == MODELS[name]


@pytest.mark.parametrize("name", list(MODELS))
def test_summary_states_the_number_of_parameters(name: str) -> None:
    entry = MODELS[name]
    assert entry.cite
    found = re.search(r"([\d.]+)(k|M) parameters", entry.summary)
    assert found is not None
    number, unit = found.groups()
    channels, size = (1, 28) if "28x28 grey" in entry.summary else (3, 32)
    with torch.device("meta"):
        count = sum(p.numel() for p in build(name, channels, 10, 0, size=size).parameters())
    places = len(number.partition(".")[2])
    assert f"{count / {'k': 1e3, 'M': 1e6}[unit]:.{places}f}" == number


@pytest.mark.parametrize(
    ("alias", "name"),
    [("lottery_resnet20", "resnet20-projection"), ("lottery_wide_resnet32", "resnet32x2-projection")]
    + [(f"lottery_vgg{depth}_bn", f"vgg{depth}-bias") for depth in (11, 13, 16, 19)],
)
def test_an_alias_is_the_same_model(alias: str, name: str) -> None:
    assert find(alias) == find(name)
    assert f"alias {alias}" in find(name).summary
    assert alias not in listing()


def test_importing_the_catalogue_does_not_import_torch() -> None:
    code = "import sys, pbt_bench.models as m; m.find('resnet18'); m.listing(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_name_lists_the_valid_ones_and_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"unknown model 'resnet-18'; did you mean 'resnet18'\?") as error:
        build("resnet-18", 3, 10, 0)
    for name in (*MODELS, "torchvision/NAME", "timm/NAME"):
        assert name in str(error.value)


def test_unknown_library_is_an_unknown_model() -> None:
    with pytest.raises(RequestError, match="unknown model 'keras/resnet18'"):
        find("keras/resnet18")


def test_listing_holds_every_name_and_the_libraries() -> None:
    assert list(listing()) == [*MODELS, "torchvision/NAME", "timm/NAME"]


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.size == "needed"])
def test_models_that_need_the_image_size_say_so(name: str) -> None:
    with pytest.raises(RequestError, match=f"model '{name}' needs the size of the images"):
        build(name, 1, 10, 0)


def test_sizes_that_cannot_be_taken_are_request_errors() -> None:
    with pytest.raises(RequestError, match="'lenet5' needs images of 16x16 pixels or more, not 15x15"):
        build("lenet5", 1, 10, 0, size=15)
    with pytest.raises(RequestError, match="'conv6' needs images of 8x8 pixels or more, not 7x7"):
        build("conv6", 3, 10, 0, size=7)
    with pytest.raises(RequestError, match="4x4 patches cannot cut up 30x30 images"):
        build("vit-tiny", 3, 10, 0, size=30)


def test_an_own_model_must_be_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgotten(channels: int, classes: int) -> None:
        """Returns nothing."""

    monkeypatch.setattr("pbt_bench.models.find", lambda name: Model("", name, "none", "", own=forgotten))  # type: ignore[arg-type]
    with pytest.raises(
        RequestError, match=r"model 'forgotten' \(.*test_model_catalogue.py:\d+\) is a NoneType, not an"
    ):
        build("forgotten", 3, 10, 0)
