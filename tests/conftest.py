"""Fixtures for all tests, and their order in several processes.

If PBT_BENCH_REQUIRE_ALL is set, as in CI, a skipped test is an error.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import torch

torch.set_num_threads(1)

_SLOW = (  # begun first, so that the processes end together; measured by pytest --durations
    "tests/docs/test_examples.py", "tests/test_own_methods.py", "tests/test_cli.py", "tests/analysis/pages/",
    "tests/slurm/", "tests/faults/",
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run the tests of a file in one process, and those of the Slurm cluster too."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            return _file_or_cluster(nodeid)

    config.option.loadscopereorder = False
    return ByFile(config, log)


def _file_or_cluster(nodeid: str) -> str:
    return "tests/slurm/" if nodeid.startswith("tests/slurm/") else nodeid.partition("::")[0]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked `long` unless PBT_BENCH_FAULTS=all is set, as `make test-faults` does; give them 30 minutes."""
    if hasattr(config, "workerinput"):  # one of several processes
        items.sort(key=lambda item: not item.nodeid.startswith(_SLOW))
    for item in items:
        if item.get_closest_marker("long") or os.environ.get("PBT_BENCH_FAULTS") == "all":
            item.add_marker(pytest.mark.timeout(1800))
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
