"""Fixtures for all tests. If PBT_BENCH_REQUIRE_ALL is set, as in CI, a skipped test is an error."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked `long` unless PBT_BENCH_FAULTS=all is set, as `make test-faults` does.

    With several processes, the tests of a file run in one of them, and so do all tests of the Slurm cluster.
    """
    for item in items:
        folder = item.path.parent
        item.add_marker(pytest.mark.xdist_group("slurm" if folder.parts[-2:] == ("tests", "slurm") else str(item.path)))
    if os.environ.get("PBT_BENCH_FAULTS") != "all":
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("PBT_BENCH_REQUIRE_ALL") and "cuda" not in str(report.longrepr).lower():
        report.outcome = "failed"
        report.longrepr = f"skipped where everything is required: {report.longrepr}"
    return report


@pytest.fixture
def nan_memory() -> Iterator[None]:
    """Fill uninitialised memory with NaN, which shows outputs that a kernel does not write."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
