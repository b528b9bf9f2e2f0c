"""Enforcement of masks in a training loop that is not the one of pbt-bench."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from pbt_bench.errors import RequestError, shortened
from pbt_bench.pruning.masks import masked_parameters


class _Removable(Protocol):
    def remove(self) -> None: ...


class Enforcement:
    """Masks that are enforced until `remove` is called, or until the end of a `with` block."""

    def __init__(self, pruned: Mapping[Tensor, Tensor] | None = None, optimizers: Iterable[Optimizer] = ()) -> None:
        self._pruned = dict(pruned or {})
        self._optimizers = list(optimizers)
        self._hooks: list[_Removable] = []

    def remove(self) -> None:
        """Stop enforcing the masks. Pruned weights are zero until the next step of the optimizer."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def __enter__(self) -> Enforcement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def __reduce__(self) -> tuple[type[Enforcement], tuple[()]]:
        return Enforcement, ()  # a copied or pickled model is not enforced: its optimizer is another one

    def _start(self, model: nn.Module) -> None:
        """Set pruned weights, their gradients and their state to zero, and register the hooks that keep them zero."""
        self._zero_weights()
        self._zero_states()
        for parameter in self._pruned:
            self._zero_gradient(parameter)
            if parameter.requires_grad:
                # Zero before a step: clipping by norm and optimizers that combine weights see no pruned weight.
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._zero_gradient))
        self._hooks.append(model.register_load_state_dict_post_hook(self._zero_weights))
        for optimizer in self._optimizers:
            self._hooks.append(optimizer.register_step_post_hook(self._zero_weights))
            self._hooks.append(optimizer.register_load_state_dict_post_hook(self._zero_states))

    def _mask_on(self, parameter: Tensor) -> Tensor:
        """Return the mask of pruned weights on the current device of the parameter."""
        if self._pruned[parameter].device != parameter.device:
            self._pruned[parameter] = self._pruned[parameter].to(parameter.device)
        return self._pruned[parameter]

    def _zero_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            parameter.grad.masked_fill_(self._mask_on(parameter), 0)

    def _zero_weights(self, *_: Any) -> None:
        with torch.no_grad():
            for parameter in self._pruned:
                parameter.masked_fill_(self._mask_on(parameter), 0)

    def _zero_states(self, *_: Any) -> None:
        """Set the momentum and the other state of pruned weights to zero, in tensors with an entry per weight."""
        with torch.no_grad():
            for optimizer in self._optimizers:
                for parameter in self._pruned.keys() & optimizer.state.keys():
                    for value in optimizer.state[parameter].values():
                        if isinstance(value, Tensor) and value.shape == parameter.shape:
                            value.masked_fill_(self._mask_on(parameter), 0)


def enforce(model: nn.Module, masks: Mapping[str, Tensor], optimizer: Optimizer | Iterable[Optimizer]) -> Enforcement:
    """Keep the pruned weights of `model` exactly zero through every step of `optimizer`, or of several optimizers.

    Set them to zero now, after every step, and after every `load_state_dict` of the model. Their gradients and their
    state in the optimizer are zero too. Kept weights are therefore trained as if the pruned weights did not exist, also
    with momentum, weight decay, gradient clipping, and optimizers that combine weights, such as LBFGS. Parameters and
    state dict keep their names and shapes. `model` may be compiled or in a `DistributedDataParallel`.

    Return an object whose method `remove` ends this. As a context manager, it does so at the end of the `with` block.
    Raises RequestError, naming the tensors, if a mask does not fit the model, or if no optimizer has a masked weight.
    """
    inner = _unwrapped_model(model)
    parameters = masked_parameters(masks, inner)
    optimizers = [
        _unwrapped_optimizer(each) for each in (optimizer if isinstance(optimizer, Iterable) else [optimizer])
    ]
    owned = {parameter for each in optimizers for group in each.param_groups for parameter in group["params"]}
    if absent := [name for name, p in parameters.items() if p.requires_grad and p not in owned]:
        raise RequestError(
            f"the optimizer has no parameter {shortened(absent)}: make it from the parameters of this "
            f"{type(inner).__name__}, or pass every optimizer that has some of them"
        )
    found = Enforcement({parameters[name]: ~mask for name, mask in masks.items() if not mask.all()}, optimizers)
    found._start(inner)
    return found


def _unwrapped_model(model: object) -> nn.Module:
    """Return the module in a wrapper of `torch.compile`, `nn.DataParallel` or `DistributedDataParallel`."""
    if not isinstance(model, nn.Module):
        raise RequestError(f"the model is {type(model).__name__}, not a torch.nn.Module")
    if isinstance(model, (nn.DataParallel, DistributedDataParallel)):
        return _unwrapped_model(model.module)
    return _unwrapped_model(model._modules["_orig_mod"]) if "_orig_mod" in model._modules else model


def _unwrapped_optimizer(optimizer: object) -> Optimizer:
    """Return the optimizer of torch in a wrapper, such as those of Accelerate and Lightning."""
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, Optimizer):
        return _unwrapped_optimizer(inner)
    if not isinstance(optimizer, Optimizer):
        raise RequestError(f"the optimizer is {type(optimizer).__name__}, not a torch.optim.Optimizer")
    return optimizer
