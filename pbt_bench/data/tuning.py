"""Constants chosen by measurement; benchmarks/tuning.py measures them, benchmarks/tuning.md is its log."""

from __future__ import annotations

COUNTED_IMAGES = 4096  # images whose pixel values are counted at once
MOST_LOADERS = 12  # processes that read images from files
