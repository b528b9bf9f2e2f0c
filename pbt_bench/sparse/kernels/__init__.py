"""Kernels in C, loaded by ctypes, for CPU operations that PyTorch lacks or is slow at.

kernels.c is compiled at installation if there is a C compiler with OpenMP. Without it `loaded()` is None, and PyTorch
computes the same results more slowly. The instruction set (AVX-512, AVX2 or neither) is chosen at run time. Sums have a
fixed order, whatever the number of threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pbt_bench.sparse.kernel_library import Kernels, loaded

__all__ = ["VECTOR_BYTES", "Kernels", "call", "loaded", "takes"]

_TYPES = {torch.float32: "float", torch.float64: "double"}
VECTOR_BYTES = {"plain": 16, "avx2": 32, "avx512": 64}


def takes(x: Tensor) -> bool:
    """Return whether compiled kernels exist for the number type and device of `x`."""
    return x.device.type == "cpu" and x.dtype in _TYPES and loaded() is not None


def call(name: str, dtype: torch.dtype | None, tensors: Sequence[Tensor | None], *rest: Any) -> None:
    """Call a kernel, of a number type if one is given.

    Tensors are passed as pointers, None as NULL, integers as C's `long`.
    """
    found = loaded()
    assert found is not None
    kernel = getattr(found.library, f"{name}_{_TYPES[dtype]}_{found.set}" if dtype else name)
    pointers = (ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors)
    kernel(*pointers, *(ctypes.c_long(value) if isinstance(value, int) else value for value in rest))
