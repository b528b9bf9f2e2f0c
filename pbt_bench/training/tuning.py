"""Constant chosen by measurement; benchmarks/tuning.py measures it, benchmarks/tuning.md is its log."""

from __future__ import annotations

EVALUATION_BATCH = 512  # images; another number changes the last bits of a loss
