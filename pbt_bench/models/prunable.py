"""Prunable parameters: the weights of convolutions, linear layers and attention, found by module type."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from pbt_bench.errors import RequestError, reason

Masks = dict[str, Tensor]  # prunable parameter name -> bool tensor of its shape, True = kept


def check_network(model: object) -> None:
    """Raise RequestError, naming the part, unless `model` is a plain network whose tensors have values."""
    if not isinstance(model, nn.Module):
        raise RequestError(f"the model is {type(model).__name__}, not a torch.nn.Module")
    for name, module in model.named_modules():
        what = f"{name or 'the model'} is {type(module).__name__}"
        if isinstance(module, (nn.DataParallel, DistributedDataParallel)):
            raise RequestError(f"{what}: pass its .module; the masks then have the names of its weights")
        if isinstance(module, torch.jit.ScriptModule):
            raise RequestError(f"{what} of torch.jit: pass the module that it was made of")
        if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
            raise RequestError(f"{what} of torch.compile: pass the module that was compiled")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise RequestError(f"{name} has no shape yet: run the model on one batch before it is scored")
        if tensor.is_meta:
            raise RequestError(f"{name} is on the meta device, without values: load the weights first")
        if tensor.is_inference():
            why = "was made in torch.inference_mode, so it has no gradient: make the model outside"
            raise RequestError(f"{name} {why}")


def prunable(model: nn.Module, prune_classifier: bool = True) -> dict[str, nn.Parameter]:
    """Return name -> weight of every convolution and linear layer, in module order; no biases or normalisation.

    The query, key and value maps of an `nn.MultiheadAttention` are included, packed in one tensor or separate.
    A tensor shared by several modules appears once, under its first name in `named_parameters`: a linear layer
    tied to an earlier embedding has the embedding's. With `prune_classifier` false the last linear layer (the last
    prunable layer of a network without one) is left out.
    """
    found: dict[str, nn.Parameter] = {}
    linear: str | None = None
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for module in model.modules():
        for attribute in weight_names(module):
            weight = module._parameters.get(attribute)  # an attribute would run a parametrisation, and move its buffers
            if weight is None or (name := names[id(weight)]) in found:
                continue
            found[name] = weight
            linear = name if isinstance(module, nn.Linear) else linear
    if found and not prune_classifier:
        del found[linear or next(reversed(found))]
    return found


def weight_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names, within `module`, of the weights of linear maps that it computes itself."""
    if isinstance(module, nn.MultiheadAttention):
        return ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return ("weight",) if isinstance(module, (nn.Linear, _ConvNd)) else ()


def owners(model: nn.Module) -> dict[str, nn.Module]:
    """Return prunable parameter name -> the module that computes its linear map, the first one of a tied weight."""
    names = {id(parameter): name for name, parameter in prunable(model).items()}
    found: dict[str, nn.Module] = {}
    for module in model.modules():
        for attribute in weight_names(module):
            if name := names.get(id(module._parameters.get(attribute))):
                found.setdefault(name, module)
    return found


def packed_projections(model: nn.Module) -> set[str]:
    """Return the weights [3 · width, width] that pack the query, key and value maps of an `nn.MultiheadAttention`.

    Such a tensor has one mask and one line in a diagnosis. Methods and scopes treat it as three layers, which follow
    each other in dimension 0, so scores and quotas are those of three linear layers. A scope gets the names NAME[0] to
    NAME[2].
    """
    attentions = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    packed = {id(module._parameters.get("in_proj_weight")) for module in attentions}
    return {name for name, parameter in model.named_parameters() if id(parameter) in packed}


def output_of(model: nn.Module, run: Callable[[], object], inputs: torch.Tensor, where: str) -> torch.Tensor:
    """Return the output that `run` gets of `model` for `inputs`.

    Raises RequestError, which starts with `where`, if the model does not take the inputs or its output is no tensor.
    """
    try:
        output = run()
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        why = reason(error)
        if isinstance(error, RequestError) or "torch.utils.checkpoint" in why:
            raise
        shape, kind = tuple(inputs.shape), str(inputs.dtype).removeprefix("torch.")
        name = type(model).__name__
        raise RequestError(f"{where}: {name} does not take inputs of shape {shape}, {kind}: {why}") from error
    if not isinstance(output, torch.Tensor):
        found = type(output).__name__
        raise RequestError(f"{type(model).__name__}: its output is {found}, not a tensor: wrap it to return the logits")
    return output


def reparametrised(model: nn.Module) -> list[str]:
    """Return the parameters from which a layer that would be prunable computes its weight, such as `0.weight_orig`."""
    return [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for weight in weight_names(module)
        if weight not in module._parameters
        for name, _ in module.named_parameters()
        if name.startswith((weight, f"parametrizations.{weight}"))
    ]


def matrices_left_out(model: nn.Module) -> list[str]:
    """Return the parameters with two or more dimensions (of size 1 does not count) that are never prunable.

    Those of reparametrised layers are left out: see `reparametrised`.
    """
    taken = {*prunable(model), *reparametrised(model)}
    others = {name: p for name, p in model.named_parameters() if name not in taken and not is_lazy(p)}
    return [name for name, p in others.items() if sum(n > 1 for n in p.shape) > 1]
