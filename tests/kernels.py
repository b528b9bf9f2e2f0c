"""The compiled kernels of every instruction set that this machine has."""

from __future__ import annotations

from pbt_bench import native

_SETS = ["plain", "avx2", "avx512"]
_LOADED = native.kernels()
KERNELS = [native.Kernels(_LOADED.library, name) for name in _SETS[: _SETS.index(_LOADED.set) + 1]] if _LOADED else []
