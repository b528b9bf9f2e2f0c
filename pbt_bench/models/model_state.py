"""Restore a model bit by bit: weights, buffers, gradients, flags, and the global random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.autograd.graph import disable_saved_tensors_hooks

from pbt_bench.errors import RequestError
from pbt_bench.models.full_float32 import full_float32

_CHECKPOINTS = (
    "the network uses torch.utils.checkpoint, which runs layers again where a backward pass cannot be followed: "
    "switch it off to score and to diagnose"
)


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore every bit of the model on leaving the `with` block, in which gradients start as None.

    In the block, products of float32 numbers are computed in float32 (`full_float32`).

    Raises RequestError in torch.inference_mode, where there are no gradients, and at activation checkpoints
    (use_reentrant=False), which repeat their forward pass on other tensors during the backward pass.
    """
    if torch.is_inference_mode_enabled():
        raise RequestError("torch.inference_mode is on, so there are no gradients: score and diagnose outside of it")
    modes = [(module, module.training) for module in model.modules()]
    tensors = [(t, t.detach().clone()) for t in (*model.parameters(), *model.buffers())]
    grads = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    buffers = [(module, name, b) for module in model.modules() for name, b in module._buffers.items()]
    devices = {t.device.index for t, _ in tensors if t.device.type == "cuda"}
    with full_float32(), torch.random.fork_rng(devices=sorted(d for d in devices if d is not None)):
        try:
            for parameter in model.parameters():
                parameter.grad = None
            with disable_saved_tensors_hooks(_CHECKPOINTS):
                yield
        except RuntimeError as error:
            if "torch.utils.checkpoint" not in str(error):
                raise
            raise RequestError(_CHECKPOINTS) from error
        finally:
            with torch.no_grad():
                for module, name, buffer in buffers:
                    module._buffers[name] = buffer
                for tensor, before in tensors:
                    tensor.copy_(before)
            for parameter, grad, requires_grad in grads:
                parameter.requires_grad_(requires_grad)
                parameter.grad = grad
            for module, training in modes:
                module.training = training
