"""Tests of the description of the machine in a record."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pbt_bench.running.environment import describe, emulates_bfloat16


@pytest.mark.parametrize(
    ("flags", "emulated"), [("avx2 fma", True), ("avx2 avx512f avx512_bf16", False), ("asimd bf16", False)]
)
def test_a_processor_without_bfloat16_is_known(flags: str, emulated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: f"flags\t: sse {flags}\n")
    assert emulates_bfloat16() == emulated


def test_what_decides_the_last_bits_is_named() -> None:
    found = describe(torch.device("cpu"))
    assert found["processor"] == torch.backends.cpu.get_cpu_capability()
    assert found["sparse_kernels"] in (None, "plain", "avx2", "avx512")
