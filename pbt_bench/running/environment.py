"""Describe the environment of a run: versions, device, commit, host. It is not part of the run's identity."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path
from typing import Any

import numpy
import torch

from pbt_bench.running.source import code_state
from pbt_bench.sparse import kernels
from pbt_bench.version import __version__


def emulates_bfloat16() -> bool:
    """Return whether this is an x86 processor without bfloat16 instructions, where bfloat16 is many times slower."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx2" in flags and not {"avx512_bf16", "amx_bf16"} & set(flags)


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
        "processor": torch.backends.cpu.get_cpu_capability(),
        "sparse_kernels": found.set if (found := kernels.loaded()) else None,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
