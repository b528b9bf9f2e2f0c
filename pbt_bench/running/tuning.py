"""Constants chosen by measurement; benchmarks/tuning.py measures them, benchmarks/tuning.md is its log."""

from __future__ import annotations

KEPT_BYTES = 96 * 2**20  # a worker keeps freed blocks below this size, and returns larger ones to the system
CLAIMS_PER_CHECK = 20  # claims that a pool reads in one check; a slow file system needs 20 ms for each
CHECK_SECONDS = 2.0  # between two such checks
