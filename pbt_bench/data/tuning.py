"""Constants chosen by measurement; benchmarks/tuning.py measures them, benchmarks/tuning.md is its log."""

from __future__ import annotations

SMALL_SET = 2**24  # pixel values up to which means and deviations are computed in one float64 copy
COUNTED_IMAGES = 4096  # images of larger sets whose pixel values are counted at once
MOST_LOADERS = 12  # processes that read images from files
