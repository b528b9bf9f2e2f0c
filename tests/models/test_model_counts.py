"""Tests of parameter counts and prunable weights against the literature.

Sources. He: He et al. 2016, arXiv:1512.03385, Table 6 (in millions), to the last parameter as in akamaster's
pytorch_resnet_cifar10 (option A), which ProsPr uses; OpenLTH and SynFlow have the projections. Kuangliu:
github.com/kuangliu/pytorch-cifar (ResNet-50's 23,520,842 in its issue 80). GraSP: finding F4 (1.86M).
WRN: Zagoruyko and Komodakis 2016, Table 4 (36.5M). MGE: eliacunegatti/mge-snn 02ba1eb, models/. SynFlow:
ganguli-lab/Synaptic-Flow 9dfa57a, Models/lottery_*.py, without the numbers of its shortcuts, which are not trained.
MiCA: Hikari43/minimum_connection_assurance 9b14283, Models/. torchvision: `num_params` of its weights. Han: Han et
al. 2015, arXiv:1506.02626, Table 3, layer by layer. DeiT: Touvron et al. 2021; timm's vit_tiny_patch16_224.
"""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

from pbt_bench.models import build
from pbt_bench.models.prunable import matrices_left_out, prunable
from pbt_bench.models.vit import vit_tiny

LITERATURE = [  # name, classes, all parameters, prunable weights, source
    ("resnet20", 10, 269_722, 268_336, "He, 0.27M"),
    ("resnet32", 10, 464_154, 461_872, "He, 0.46M"),
    ("resnet44", 10, 658_586, 655_408, "He, 0.66M"),
    ("resnet56", 10, 853_018, 848_944, "He, 0.85M"),
    ("resnet110", 10, 1_727_962, 1_719_856, "He, 1.7M"),
    ("resnet1202", 10, 19_421_274, 19_331_632, "He, 19.4M"),
    ("resnet20-projection", 10, 272_474, 270_896, "OpenLTH, MGE"),
    ("resnet20-projection", 100, 278_324, 276_656, "MGE"),
    ("resnet32-projection", 10, 466_906, 464_432, "MGE"),
    ("lottery_resnet20", 10, 272_714 - 240, 271_136 - 240, "SynFlow, MiCA: 240 channels of 7 shortcuts"),
    ("lottery_resnet32", 10, 467_370 - 464, 464_896 - 464, "SynFlow"),
    ("lottery_resnet110", 10, 1_732_634 - 1_920, 1_724_336 - 1_920, "SynFlow"),
    ("lottery_wide_resnet32", 10, 1_861_450 - 928, 1_856_512 - 928, "SynFlow"),
    ("resnet32x2-projection", 10, 1_860_522, 1_855_584, "GraSP, 1.86M"),
    ("resnet18", 10, 11_173_962, 11_164_352, "Kuangliu"),
    ("resnet34", 10, 21_282_122, 21_265_088, "Kuangliu"),
    ("resnet50", 10, 23_520_842, 23_467_712, "Kuangliu"),
    ("resnet18-imagenet", 1000, 11_689_512, 11_678_912, "torchvision"),
    ("resnet34-imagenet", 1000, 21_797_672, 21_779_648, "torchvision"),
    ("resnet50-imagenet", 1000, 25_557_032, 25_502_912, "torchvision"),
    ("wrn-28-10", 10, 36_479_194, 36_461_232, "WRN, 36.5M"),
    ("wrn-28-10", 100, 36_536_884, 36_518_832, "WRN, 36.5M"),
    ("wrn-28-2", 10, 1_467_610, 1_463_984, "MGE"),
    ("wrn-28-2", 100, 1_479_220, 1_475_504, "MGE"),
    ("conv6", 10, 2_265_418, 2_261_184, "MGE"),
    ("conv6", 100, 2_288_548, 2_284_224, "MGE"),
    ("lottery_vgg16_bn", 10, 14_728_266, 14_715_584, "SynFlow"),
    ("lottery_vgg16_bn", 100, 14_774_436, 14_761_664, "SynFlow"),
    ("vgg16", 10, 14_724_042, 14_715_584, "MiCA: its VGGs have no biases"),
    ("vgg16", 100, 14_770_212, 14_761_664, "MiCA"),
    ("vgg11-bias", 10, 9_231_114, 9_222_848, "Kuangliu"),
    ("vgg13-bias", 10, 9_416_010, 9_407_168, "Kuangliu"),
    ("vgg16-bias", 10, 14_728_266, 14_715_584, "Kuangliu"),
    ("vgg19-bias", 10, 20_040_522, 20_024_000, "Kuangliu"),
    ("vgg16", 10, 14_728_266 - 4_224, 14_715_584, "FORCE's code: no biases; 13 convolutions have 4,224 channels"),
    ("vgg19", 10, 20_040_522 - 5_504, 20_024_000, "GraSP, FORCE: no biases; 16 convolutions have 5,504 channels"),
]


def count(model: nn.Module) -> tuple[int, int]:
    return sum(p.numel() for p in model.parameters()), sum(w.numel() for w in prunable(model).values())


@pytest.mark.parametrize(("name", "classes", "parameters", "weights", "source"), LITERATURE)
def test_counts_are_those_of_the_literature(
    name: str, classes: int, parameters: int, weights: int, source: str
) -> None:
    with torch.device("meta"):
        model = build(name, 3, classes, 0, size=32)
    assert count(model) == (parameters, weights), source


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("conv6", "fa02e42bad12"),  # MGE, as the next three
        ("resnet20-projection", "0568db23e175"),
        ("resnet32-projection", "c1daddedaa63"),
        ("wrn-28-2", "fca45ebde2e5"),
        ("lottery_resnet20", "0568db23e175"),  # SynFlow and MiCA
        ("lottery_wide_resnet32", "6558a8787a74"),  # SynFlow and MiCA
        ("lottery_vgg16_bn", "cd7f5ba9aa2e"),  # SynFlow
        ("vgg16", "1880ef64cb19"),  # MiCA
    ],
)
def test_shapes_are_those_of_the_original_code(name: str, digest: str) -> None:
    """The digests are of the sorted shapes of the trained parameters of the models that the published code builds."""
    with torch.device("meta"):
        model = build(name, 3, 10, 0, size=32)
    shapes = sorted(tuple(parameter.shape) for parameter in model.parameters())
    assert hashlib.sha256(str(shapes).encode()).hexdigest()[:12] == digest


def test_conv6_has_the_layers_of_its_code() -> None:
    with torch.device("meta"):
        model = build("conv6", 3, 10, 0, size=32)
    assert [tuple(weight.shape) for weight in prunable(model).values()] == [
        *((64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (128, 128, 3, 3), (256, 128, 3, 3), (256, 256, 3, 3)),
        *((256, 4096), (256, 256), (10, 256)),
    ]


@pytest.mark.parametrize(
    ("name", "layers"),
    [("lenet-300-100", (235_200, 30_000, 1_000)), ("lenet5", (500, 25_000, 400_000, 5_000))],
)
def test_lenets_have_the_layers_of_han(name: str, layers: tuple[int, ...]) -> None:
    model = build(name, 1, 10, 0, size=28)
    assert tuple(weight.numel() for weight in prunable(model).values()) == layers
    assert count(model)[0] == {"lenet-300-100": 266_610, "lenet5": 431_080}[name]


def test_vision_transformer_is_deit_tiny() -> None:
    with torch.device("meta"):
        published, ours = vit_tiny(3, 1000, size=224, patch=16), build("vit-tiny", 3, 10, 0, size=32)
    assert count(published)[0] == 5_717_416
    matrices = 12 * 12 * 192 * 192  # in each of 12 blocks: 3 + 1 + 4 + 4 of width x width
    assert count(ours) == (5_362_762, matrices + 192 * 3 * 4 * 4 + 10 * 192)
    assert matrices_left_out(ours) == ["positions"]


def test_resnet110_of_bottlenecks_has_110_layers() -> None:
    with torch.device("meta"):
        model = build("resnet110-bottleneck", 3, 10, 0)
    assert sum("shortcut" not in name for name in prunable(model)) == 110


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110, 1202])
def test_depth_is_the_number_of_layers_and_a_free_shortcut_has_no_weights(depth: int) -> None:
    with torch.device("meta"):
        free, projected = build(f"resnet{depth}", 3, 10, 0), build(f"resnet{depth}-projection", 3, 10, 0)
    assert len(prunable(free)) == depth
    assert not any("shortcut" in name for name, _ in free.named_parameters())
    shortcuts = [name for name in prunable(projected) if "shortcut" in name]
    assert len(shortcuts) == 2
    assert set(prunable(projected)) - set(shortcuts) == set(prunable(free))


@pytest.mark.parametrize("name", ["resnet18", "resnet20-projection", "resnet50", "vgg16-bias", "wrn-28-10"])
def test_normalisation_and_biases_are_never_prunable(name: str) -> None:
    """Exclude finding F13: prunable scales of batch normalisation, selected by their names."""
    with torch.device("meta"):
        model = build(name, 3, 10, 0)
    assert all(weight.dim() >= 2 for weight in prunable(model).values())
    assert list(set(prunable(model)) - set(prunable(model, prune_classifier=False))) == ["classifier.weight"]
