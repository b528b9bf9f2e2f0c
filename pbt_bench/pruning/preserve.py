"""Scoring leaves the model bit-identical: weights, buffers, gradients, flags, and the global random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Inside, the model may be changed at will (gradients start as None); afterwards every bit is as before."""
    modes = [(module, module.training) for module in model.modules()]
    tensors = [(t, t.detach().clone()) for t in (*model.parameters(), *model.buffers())]
    grads = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    buffers = [(module, name, b) for module in model.modules() for name, b in module._buffers.items()]
    devices = {t.device.index for t, _ in tensors if t.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(d for d in devices if d is not None)):
        try:
            for parameter in model.parameters():
                parameter.grad = None
            yield
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
