"""The compiled kernels of every instruction set that this machine supports."""

from __future__ import annotations

from pbt_bench.sparse import kernels

_SETS = ["plain", "avx2", "avx512"]
_LOADED = kernels.loaded()
KERNELS = [kernels.Kernels(_LOADED.library, name) for name in _SETS[: _SETS.index(_LOADED.set) + 1]] if _LOADED else []
