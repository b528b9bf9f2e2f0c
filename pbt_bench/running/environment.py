"""Describe the environment of a run: versions, device, commit, host. It is not part of the run's identity."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch

from pbt_bench.sparse import kernels
from pbt_bench.version import __version__


@cache
def commit() -> str | None:
    """Return the git commit of this code, with "+changes" if the working tree differs; None outside a clone."""
    folder = Path(__file__).parents[2]

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if not (folder / ".git").exists():
            return None
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


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
        "commit": commit(),
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
