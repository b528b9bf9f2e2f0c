"""Models by name -> nn.Module, and which of their parameters are prunable.

To add a model, write its class in a file of this folder and one line here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from pbt_bench import registry
from pbt_bench.seeds import derive

if TYPE_CHECKING:
    from torch import nn

_RESNET = "He et al. 2016, arXiv:1512.03385, Sec. 4.2"
_VGG = "Simonyan and Zisserman 2015, arXiv:1409.1556, with batch normalisation"


class Model(NamedTuple):
    """A name's builder: `function(channels, classes)` in `module` of this package (torch is imported when called)."""

    module: str
    function: str
    cite: str
    summary: str


MODELS: registry.Registry[Model] = registry.Registry("model")
for _name, _entry in {
    "resnet8": Model("resnet", "resnet8", _RESNET, "3 basic blocks, 16-32-64 channels, 78k parameters"),
    "vgg8": Model("vgg", "vgg8", _VGG, "7 convolutions, 16-64 channels, 80k parameters"),
}.items():
    MODELS.add(_name, _entry, __file__)


def build(name: str, channels: int, classes: int, seed: int, init: str = "default") -> nn.Module:
    """The model `name` with weights from `seed` alone.

    init = "default": PyTorch's own; "kaiming": normal with standard deviation sqrt(2 / fan_in) for every
    convolution and linear weight, biases zero (He et al. 2015, arXiv:1502.01852, Eq. 10).
    Raises RequestError for an unknown name.
    """
    import torch
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    entry = MODELS[name]
    builder = getattr(import_module(f"pbt_bench.models.{entry.module}"), entry.function)
    with torch.random.fork_rng(devices=[]):  # module constructors draw from the global generator
        torch.manual_seed(derive(seed, "init"))
        model: nn.Module = builder(channels, classes)
        if init == "kaiming":
            for module in model.modules():
                if isinstance(module, (nn.Linear, _ConvNd)):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
    return model
