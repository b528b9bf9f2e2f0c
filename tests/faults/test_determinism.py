"""Tests that records do not depend on the number of workers, the order of runs or shared statistics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from records import result

from pbt_bench.running.store import Store

OTHER_WAY = (
    "--workers", "2", "--set", "grid.method=['synflow','snip']", "--set", "grid.sparsity=[0.98,0.9]",
    "--set", "grid.seed=[1,0]", "--set", "grid.warmup=['3 steps','none']",
)  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(OTHER_WAY, id="2 workers, all axes the other way round"),
        *(pytest.param(("--workers", n), id=f"{n} workers", marks=pytest.mark.long) for n in "124"),
    ],
)
def test_any_number_of_workers_in_any_order_gives_the_records_of_runs_alone(
    folder: Path, start: Callable[..., Any], uninterrupted: dict[str, dict[str, Any]], words: tuple[str, ...],
) -> None:  # fmt: skip
    call = start("run", "study.toml", *words)
    _, err = call.communicate(timeout=300)
    assert call.returncode == 0, err
    records = {record.run_id: result(record) for record in Store(folder / "results/study").records()}
    assert records == uninterrupted
    print(f"{len(records)} records compared")
