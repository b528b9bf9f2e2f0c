"""Derive one random stream per purpose from the seed of a run. The global generators are never used."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *purpose: object) -> int:
    """Return the 63-bit seed of `purpose`, from the SHA-256 of (seed, purpose).

    Streams are independent: draws from one stream do not change another.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *purpose: object) -> torch.Generator:
    """Return a generator for `purpose`, on the CPU so that runs on every device draw the same numbers."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *purpose))
