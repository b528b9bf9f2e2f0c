"""How a study is executed changes nothing in its records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from records import result

from pbt_bench.running.store import Store

ORDERS = {
    "1 worker": ("--workers", "1"),
    "2 workers": ("--workers", "2"),
    "4 workers": ("--workers", "4"),
    "2 workers, all axes the other way round": (
        "--workers", "2", "--set", "grid.method=['synflow','snip']", "--set", "grid.sparsity=[0.98,0.9]",
        "--set", "grid.seed=[1,0]", "--set", "grid.warmup=['3 steps','none']",
    ),
}  # fmt: skip


@pytest.mark.parametrize("words", list(ORDERS.values()), ids=list(ORDERS))
def test_any_number_of_workers_in_any_order_gives_the_records_of_runs_alone(
    folder: Path, start: Callable[..., Any], uninterrupted: dict[str, dict[str, Any]], words: tuple[str, ...],
    everything: bool,
) -> None:  # fmt: skip
    if not everything and len(words) == 2:
        pytest.skip("only with PBT_BENCH_FAULTS=all: make test-faults")
    call = start("run", "study.toml", *words)
    _, err = call.communicate(timeout=300)
    assert call.returncode == 0, err
    records = {record.run_id: result(record) for record in Store(folder / "results/study").records()}
    assert records == uninterrupted
    print(f"{len(records)} records compared")
