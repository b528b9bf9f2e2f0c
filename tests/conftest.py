"""Fixtures for all tests, and the rule that nothing is skipped where PBT_BENCH_REQUIRE_ALL is set (in CI)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `long` are those of `make test-faults`, which sets PBT_BENCH_FAULTS=all."""
    if os.environ.get("PBT_BENCH_FAULTS") != "all":
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.skipped and os.environ.get("PBT_BENCH_REQUIRE_ALL") and "cuda" not in str(report.longrepr).lower():
        report.outcome = "failed"
        report.longrepr = f"skipped where everything is required: {report.longrepr}"
    return report


@pytest.fixture
def nan_memory() -> Iterator[None]:
    """Fill uninitialised memory with NaN, so that an output which a kernel leaves unwritten is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
