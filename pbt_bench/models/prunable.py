"""Which parameters are prunable: the weights of convolutions and linear layers, found by module type."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd


def prunable(model: nn.Module, prune_classifier: bool = True) -> dict[str, nn.Parameter]:
    """Name -> weight of every convolution and linear layer, in module order; never biases or normalisation.

    A tensor shared by several modules is listed once, under its first name. With `prune_classifier` false
    the last linear layer (the last prunable layer of a network without one) is left out.
    """
    found: dict[str, nn.Parameter] = {}
    linear: str | None = None
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        if not isinstance(module, (nn.Linear, _ConvNd)) or not isinstance(module.weight, nn.Parameter):
            continue
        name = f"{prefix}.weight" if prefix else "weight"
        if id(module.weight) in seen:
            continue
        seen.add(id(module.weight))
        found[name] = module.weight
        linear = name if isinstance(module, nn.Linear) else linear
    if found and not prune_classifier:
        del found[linear or next(reversed(found))]
    return found
