"""One random stream per purpose, each derived from the run's seed. Nothing reads the global generators."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed for `purpose`: SHA-256 of (seed, purpose), so streams never overlap or shift each other."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator for `purpose`; on the CPU so that every device draws the same numbers."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *purpose))
