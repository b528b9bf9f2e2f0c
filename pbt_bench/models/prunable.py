"""Which parameters are prunable: the weights of convolutions and linear layers, found by module type."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy


def prunable(model: nn.Module, prune_classifier: bool = True) -> dict[str, nn.Parameter]:
    """Name -> weight of every convolution and linear layer, in module order; never biases or normalisation.

    A tensor shared by several modules is listed once, under its first name in `named_parameters`: a linear layer
    tied to an earlier embedding has the embedding's. With `prune_classifier` false the last linear layer (the last
    prunable layer of a network without one) is left out.
    """
    found: dict[str, nn.Parameter] = {}
    linear: str | None = None
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for module in model.modules():
        weight = module._parameters.get("weight")  # module.weight would run a parametrisation, and move its buffers
        if not isinstance(module, (nn.Linear, _ConvNd)) or weight is None or names[id(weight)] in found:
            continue
        name = names[id(weight)]
        found[name] = weight
        linear = name if isinstance(module, nn.Linear) else linear
    if found and not prune_classifier:
        del found[linear or next(reversed(found))]
    return found


def matrices_left_out(model: nn.Module) -> list[str]:
    """Names of the parameters with two or more dimensions (of size 1 does not count) that are never prunable."""
    taken = prunable(model)
    others = {name: p for name, p in model.named_parameters() if name not in taken and not is_lazy(p)}
    return [name for name, p in others.items() if sum(n > 1 for n in p.shape) > 1]
