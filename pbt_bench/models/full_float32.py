"""Turn off the reduced precisions in which PyTorch may compute products of float32 numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

# Operations with settings of their own since PyTorch 2.9, beside those of all operations.
_OPERATIONS = {"cudnn": ("conv", "rnn"), "cuda": ("matmul",), "mkldnn": ("conv", "rnn", "matmul")}


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 convolutions and matrix products in float32 in the `with` block, and restore PyTorch's settings.

    By default, PyTorch computes convolutions on GPUs in TF32, whose factors have 10 bits. This changed SNIP's scores by
    up to 3e-4 of the largest score (ResNet-8 on an NVIDIA H200), and thereby masks.
    """
    backends: Any = torch.backends
    found: list[Any] = [
        getattr(getattr(backends, library), name, None) for library, names in _OPERATIONS.items() for name in names
    ]
    operations = [operation for operation in found if hasattr(operation, "fp32_precision")]
    with ExitStack() as restored:
        for operation in operations:
            restored.callback(setattr, operation, "fp32_precision", operation.fp32_precision)
        if (convolutions := _if_readable(lambda: backends.cudnn.allow_tf32)) is not None:
            restored.callback(setattr, backends.cudnn, "allow_tf32", convolutions)
            backends.cudnn.allow_tf32 = False
        if (products := _if_readable(torch.get_float32_matmul_precision)) is not None:
            restored.callback(torch.set_float32_matmul_precision, products)
            torch.set_float32_matmul_precision("highest")
        for operation in operations:
            operation.fp32_precision = "ieee"
        yield


def _if_readable(setting: Callable[[], Any]) -> Any:
    """Return `setting()`, or None where PyTorch refuses to name one setting because operations differ."""
    try:
        return setting()
    except RuntimeError:
        return None
