"""Masks as the parametrization of `torch.nn.utils.prune`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod, custom_from_mask

from pbt_bench.pruning.masks import check_masks


def to_torch_prune(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Convert `masks` to the parametrization of `torch.nn.utils.prune` in `model`, as its `custom_from_mask` does.

    A weight becomes the product of a parameter `weight_orig` and a buffer `weight_mask` in each forward pass. All
    functions of `torch.nn.utils.prune`, such as `prune.remove`, can be used afterwards. Raises RequestError, naming the
    tensor, if a mask does not fit the model.
    """
    parameters = check_masks(masks, model)
    uses = [
        (module, attribute, name)
        for name, weight in parameters.items()
        for module in model.modules()
        for attribute, parameter in module._parameters.items()
        if parameter is weight
    ]
    for module, attribute, name in uses:
        custom_from_mask(module, attribute, masks[name].to(parameters[name].device))
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention) and any(user is module.out_proj for user, _, _ in uses):
            module.register_forward_pre_hook(_compute_output_weight)


def _compute_output_weight(attention: nn.MultiheadAttention, inputs: Any) -> None:
    """Compute the weight of the output projection, which an attention reads without a call that would run its hooks."""
    for hook in attention.out_proj._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod):
            hook(attention.out_proj, inputs)
