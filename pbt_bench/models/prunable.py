"""Prunable parameters: the weights of convolutions and linear layers, found by module type."""

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

    A tensor shared by several modules appears once, under its first name in `named_parameters`: a linear layer
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
    """Return the parameters from which a convolution or linear layer computes its weight, such as `0.weight_orig`."""
    return [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, (nn.Linear, _ConvNd)) and "weight" not in module._parameters
        for name, _ in module.named_parameters()
        if name.startswith(("weight", "parametrizations.weight"))
    ]


def matrices_left_out(model: nn.Module) -> list[str]:
    """Return the parameters with two or more dimensions (of size 1 does not count) that are never prunable.

    Those of reparametrised layers are left out: see `reparametrised`.
    """
    taken = {*prunable(model), *reparametrised(model)}
    others = {name: p for name, p in model.named_parameters() if name not in taken and not is_lazy(p)}
    return [name for name, p in others.items() if sum(n > 1 for n in p.shape) > 1]
