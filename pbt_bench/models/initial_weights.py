"""Initial weights that replace those of a model's own constructor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pbt_bench.models.prunable import weight_names


def _orthogonal(weight: Tensor) -> None:
    nn.init.orthogonal_(weight, gain=nn.init.calculate_gain("relu"))


_DRAWS: dict[str, Callable[[Tensor], object]] = {
    "kaiming": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "orthogonal": _orthogonal,
}


def draw_weights(network: nn.Module, init: str) -> None:
    """Draw the weights of all convolutions, linear layers and attentions from the global generator; biases are zero.

    An attention's packed query, key and value weights are three matrices if `init` is "orthogonal".
    """
    draw = _DRAWS[init]
    for module in network.modules():
        if isinstance(module, nn.MultiheadAttention):
            for inner in weight_names(module):
                if (weight := module._parameters.get(inner)) is not None:
                    packed = init == "orthogonal" and inner == "in_proj_weight"
                    with torch.no_grad():
                        for part in weight.chunk(3) if packed else [weight]:
                            draw(part)
            if module.in_proj_bias is not None:
                nn.init.zeros_(module.in_proj_bias)
        elif isinstance(module, (nn.Linear, _ConvNd)):
            draw(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
