"""Describe the environment of a run: versions, device, commit, host. It is not part of the run's identity."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch

from pbt_bench.running.source import code_state
from pbt_bench.sparse import kernels
from pbt_bench.version import __version__

# properties of code and machine that decide the last bits of numbers
MACHINE_PARTS = ("torch", "device_name", "processor_model", "processor", "sparse_kernels")
SESSION_PARTS = ("pbt_bench", "commit", "dirty", "numpy", *MACHINE_PARTS)


def emulates_bfloat16() -> bool:
    """Return whether this is an x86 processor without bfloat16 instructions, where bfloat16 is many times slower."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx2" in flags and not {"avx512_bf16", "amx_bf16"} & set(flags)


@cache
def processor_model() -> str | None:
    """Return the name of the processor, for example `Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz`; None if unknown."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Processor", "cpu model", "cpu"):
                return value.strip() or None
    return None


def differing(earlier: Iterable[Mapping[str, Any]], here: Mapping[str, Any]) -> list[str]:
    """Return the properties that decide numbers and were not the same in all `earlier` sessions as `here`."""
    return [name for name in SESSION_PARTS if any(each.get(name) != here.get(name) for each in earlier)]


def describe(device: torch.device) -> dict[str, Any]:
    """Return versions, device, commit, host and process of this worker."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "pbt_bench": __version__,
        **code_state(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "device": device.type,
        "device_name": name,
        "processor_model": processor_model(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "sparse_kernels": found.set if (found := kernels.loaded()) else None,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
