"""Models: their registry and construction by name.

To add a model, write its class in a file of this folder and add one line to `_catalogue`. Outside the project, write a
function under `@model` in a file of a folder that PBT_BENCH_MODELS names.

Different models that share a name in the literature have names of their own. `resnet20` has shortcuts without
parameters, `resnet20-projection` has 1x1 convolutions as shortcuts. `vgg19` has no convolution biases, `vgg19-bias` has
them. `resnet18` has the 3x3 stem for 32x32 images, `resnet18-tiny-imagenet` and `resnet18-imagenet` have the stems for
larger images. `resnet110-bottleneck` is FORCE's ResNet-110 of bottlenecks.

Aliases name the models of published code exactly. The "lottery" models of Synaptic Flow (ganguli-lab/Synaptic-Flow,
Models/lottery_resnet.py and lottery_vgg.py) are `resnetN-projection` and `vggN-bias`, with init = "kaiming". Its
other shortcuts multiply each channel by a number that stays 1 and is neither pruned nor trained. MiCA's copy of
these files has no convolution biases in its VGGs: they are `vggN`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pbt_bench import registry
from pbt_bench.errors import RequestError, unknown
from pbt_bench.seeds import derive

if TYPE_CHECKING:
    from torch import nn

_RESNET = "He et al. 2016, arXiv:1512.03385, Sec. 4.2"
_DEEP = "He et al. 2016, arXiv:1512.03385, Table 1"
_WIDE = "Zagoruyko and Komodakis 2016, arXiv:1605.07146"
_VGGNET = "Simonyan and Zisserman 2015, arXiv:1409.1556, with batch normalisation"
_MGE = "Cunegatti et al. 2024, arXiv:2305.16886 (its code); Conv-6 of Frankle and Carbin 2019, arXiv:1803.03635"
_LENET = "LeCun et al. 1998, Proceedings of the IEEE 86(11)"
_VIT = "Touvron et al. 2021, arXiv:2012.12877, Table 1 (DeiT-Ti)"


class Model(NamedTuple):
    """A registered model and its builder, `function(channels, classes, **options)` in `module` of this package.

    The module is imported when the model is built, because it imports torch. `own` is the builder of a user's model.
    `size` states whether the builder takes the side of the images in pixels: "any" = it does not, "optional", "needed".
    """

    module: str
    function: str
    cite: str
    summary: str
    options: Mapping[str, Any] = MappingProxyType({})
    size: Literal["any", "optional", "needed"] = "any"
    own: Callable[..., nn.Module] | None = None
    aliases: tuple[str, ...] = ()
    revision: int = 1  # raised when its numbers change on purpose


def model(
    *, cite: str, size: Literal["any", "optional", "needed"] = "any"
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Register a user's builder of an nn.Module, `NAME(channels, classes)`, with `size` also `size=` in pixels.

    The first line of its docstring is its summary. Raises RequestError if the name is taken.
    """

    def register(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        summary = (build.__doc__ or "").strip().split("\n", 1)[0]
        entry = Model("", build.__name__, cite, summary, size=size, own=build)
        MODELS.add(build.__name__, entry, registry.origin(build))
        return build

    return register


@cache
def models() -> registry.Registry[Model]:
    """Return all registered models: those of this package, then those of the folders in PBT_BENCH_MODELS."""
    for folder in registry.extra_folders("PBT_BENCH_MODELS"):
        registry.load_folder(folder, "pbt_bench_models")
    return MODELS


def _catalogue() -> Iterator[tuple[str, Model]]:
    """Yield (name, entry) of every model of this package. Parameter counts are for 3 channels and 10 classes."""
    yield "resnet8", _basic_entry(8, "projection", "78k")
    yield "vgg8", Model("vgg", "vgg8", _VGGNET, "7 convolutions, 16-64 channels, 80k parameters")

    for depth, plain, projected in (
        (20, "269.7k", "272.5k"),
        (32, "464.2k", "466.9k"),
        (44, "658.6k", "661.3k"),
        (56, "853.0k", "855.8k"),
        (110, "1.728M", "1.731M"),
        (1202, "19.42M", "19.42M"),
    ):
        yield f"resnet{depth}", _basic_entry(depth, "identity", plain)
        named = _with_alias(_basic_entry(depth, "projection", projected), f"lottery_resnet{depth}")
        yield f"resnet{depth}-projection", named
    yield "resnet32x2", _basic_entry(32, "identity", "1.850M", width=2)
    wide = _basic_entry(32, "projection", "1.861M", width=2)
    yield "resnet32x2-projection", _with_alias(wide, "lottery_wide_resnet32")

    for name, blocks, bottleneck, small, large in (
        ("resnet18", (2, 2, 2, 2), False, "11.17M", "11.18M"),
        ("resnet34", (3, 4, 6, 3), False, "21.28M", "21.29M"),
        ("resnet50", (3, 4, 6, 3), True, "23.52M", "23.53M"),
        ("resnet101", (3, 4, 23, 3), True, "42.51M", "42.52M"),
        ("resnet152", (3, 8, 36, 3), True, "58.16M", "58.16M"),
    ):
        yield name, _deep_entry(blocks, bottleneck, "cifar", f"3x3 stem, {small}")
        yield f"{name}-tiny-imagenet", _deep_entry(blocks, bottleneck, "tiny-imagenet", f"3x3 stem, stride 2, {small}")
        yield f"{name}-imagenet", _deep_entry(blocks, bottleneck, "imagenet", f"7x7 stem, stride 2, pooling, {large}")
    force = "de Jorge et al. 2021, arXiv:2006.09081 (its code)"
    yield "resnet110-bottleneck", _deep_entry((3, 4, 26, 3), True, "cifar", "3x3 stem, 45.86M")._replace(cite=force)

    for width, count in ((2, "1.47M"), (10, "36.48M")):
        summary = f"12 pre-activation blocks, {count} parameters"
        yield f"wrn-28-{width}", Model("wide_resnet", "wide_resnet", _WIDE, summary, {"depth": 28, "width": width})

    for depth, plain, biased in (
        (11, "9.228M", "9.231M"),
        (13, "9.413M", "9.416M"),
        (16, "14.72M", "14.73M"),
        (19, "20.04M", "20.04M"),
    ):
        summary = f"{depth - 3} convolutions, 64-512 channels"
        yield f"vgg{depth}", Model("vgg", "vgg", _VGGNET, f"{summary}, {plain} parameters", {"depth": depth})
        options = {"depth": depth, "bias": True}
        entry = Model("vgg", "vgg", _VGGNET, f"{summary} with biases, {biased} parameters", options)
        yield f"vgg{depth}-bias", _with_alias(entry, f"lottery_vgg{depth}_bn")

    conv6 = "3 pairs of convolutions, 64-256 channels, with biases, 2 hidden linear layers of 256 units, batch norm"
    yield "conv6", Model("conv6", "Conv6", _MGE, f"{conv6}, 2.265M parameters for 32x32 images", size="needed")

    mlp = "784-300-100-10, 267k parameters for 28x28 grey images"
    yield "lenet-300-100", Model("lenet", "LeNet300100", _LENET, mlp, size="needed")
    caffe = "Caffe's: 2 convolutions of 20 and 50 channels, 500 units, 431k parameters for 28x28 grey images"
    yield "lenet5", Model("lenet", "LeNet5", _LENET, caffe, size="needed")
    vit = "4x4 patches, 12 blocks of width 192, 3 heads, 5.36M parameters for 32x32 images"
    yield "vit-tiny", Model("vit", "vit_tiny", _VIT, vit, size="needed")


def _with_alias(entry: Model, alias: str) -> Model:
    return entry._replace(summary=f"{entry.summary}, alias {alias}", aliases=(alias,))


def _basic_entry(depth: int, shortcut: str, count: str, width: int = 1) -> Model:
    means = "1x1 projections" if shortcut == "projection" else "shortcuts without parameters"
    channels = "-".join(str(base * width) for base in (16, 32, 64))
    summary = f"{(depth - 2) // 2} basic blocks, {channels} channels, {means}, {count} parameters"
    return Model("resnet", "three_stages", _RESNET, summary, {"depth": depth, "shortcut": shortcut, "width": width})


def _deep_entry(blocks: tuple[int, ...], bottleneck: bool, stem: str, rest: str) -> Model:
    kind = "bottlenecks" if bottleneck else "basic blocks"
    summary = f"{sum(blocks)} {kind}, 64-512 channels, {rest} parameters"
    options = {"blocks": blocks, "bottleneck": bottleneck, "stem": stem}
    return Model("resnet", "four_stages", _DEEP, summary, options)


MODELS: registry.Registry[Model] = registry.Registry("model")
for _name, _entry in _catalogue():
    MODELS.add(_name, _entry, f"{__file__}:1", _entry.aliases)

LIBRARIES = {  # prefix -> the models of a library
    name: Model("external", name, f"https://{address}", summary, size="optional")
    for name, address, summary in (
        ("torchvision", "pytorch.org/vision", "any image classifier of torchvision"),
        ("timm", "github.com/huggingface/pytorch-image-models", "any of timm's"),
    )
}


def model_revision(name: str) -> int | str:
    """Return the revision of a model: its number, or a digest of its file outside the project."""
    return registry.revision(models().origin(name), find(name).revision) if name in models() else find(name).revision


def find(name: str) -> Model:
    """Return the entry of `name`: one of `models()`, torchvision/NAME or timm/NAME.

    Raises RequestError for an unknown name and for a library that is not installed.
    """
    library, slash, inner = name.partition("/")
    if slash and library in LIBRARIES:
        from pbt_bench.models.external import check

        check(library, inner)
        entry = LIBRARIES[library]
        return entry._replace(summary=f"{library}'s {inner}", options={"name": inner})
    if name not in models():
        raise unknown("model", name, [*models(), *(f"{library}/NAME" for library in LIBRARIES)])
    return models()[name]


def check_pretrained(name: str) -> None:
    """Raise RequestError if the model `name` is not of a library with pretrained weights."""
    if name.partition("/")[0] not in LIBRARIES:
        raise RequestError(
            f"init = 'pretrained': {name!r} has no published weights (torchvision/NAME and timm/NAME have); "
            "name a state file in the data folder: init = 'pretrained FILE'"
        )


def listing() -> dict[str, Model]:
    """Return the entries of all names; `torchvision/NAME` and `timm/NAME` represent the models of these libraries."""
    return dict(models().items()) | {f"{library}/NAME": entry for library, entry in LIBRARIES.items()}


def build(
    name: str,
    channels: int,
    classes: int,
    seed: int,
    init: str = "default",
    size: int | None = None,
    folder: Path = Path("data"),
) -> nn.Module:
    """Build the model `name` for square images of `size` pixels a side. Its initial weights depend on `seed` alone.

    init = "default": the initialisation of PyTorch or of the model's library. init = "kaiming": every prunable
    weight is normal with standard deviation sqrt(2 / fan_in), biases are zero (He et al. 2015,
    arXiv:1502.01852, Eq. 10). init = "orthogonal": every prunable weight, as a matrix with a row per output, is random
    and orthogonal, times sqrt(2), biases are zero (Saxe et al. 2014, arXiv:1312.6120). init = "pretrained": the default
    weights of torchvision or timm. init = "pretrained FILE": the weights in a state file of the data folder `folder`. A
    classifier for another number of classes keeps its "default" weights. Raises RequestError for an unknown name, if
    `size` is needed but missing or invalid, and if pretrained weights cannot be loaded.
    """
    import torch
    from torch import nn

    from pbt_bench.models.initial_weights import draw_weights
    from pbt_bench.models.state_files import load_state, read_state

    entry = find(name)
    if entry.size == "needed" and size is None:
        raise RequestError(f"model {name!r} needs the size of the images")
    options = dict(entry.options) if entry.size == "any" else {**entry.options, "size": size}
    if init == "pretrained":
        check_pretrained(name)
        options["pretrained"] = True
    builder = entry.own or getattr(import_module(f"pbt_bench.models.{entry.module}"), entry.function)
    with torch.random.fork_rng(devices=[]):  # module constructors draw from the global generator
        torch.default_generator.manual_seed(derive(seed, "init"))  # of the CPU; torch.manual_seed would seed GPUs too
        network: Any = builder(channels, classes, **options)
        if not isinstance(network, nn.Module):  # from a user's builder
            where = registry.origin(builder)
            raise RequestError(f"model {name!r} ({where}) is a {type(network).__name__}, not an nn.Module")
        if init in ("kaiming", "orthogonal"):
            draw_weights(network, init)
        elif init.startswith("pretrained "):
            file = folder / init.partition(" ")[2]
            load_state(network, read_state(file), f"{file} for {name!r}")
    return network
