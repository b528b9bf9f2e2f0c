"""The part of a record that two executions of one run must have in common."""

from __future__ import annotations

from typing import Any

import msgspec

from pbt_bench.running.record import RunRecord


def result(record: RunRecord) -> dict[str, Any]:
    """Return the record without times, host, device and number of interruptions."""
    assert record.error is None, record.error
    plain: dict[str, Any] = msgspec.json.decode(record.to_json())
    plain.pop("environment")
    plain["pruning"].pop("scoring_seconds")
    for epoch in plain["curve"]:
        epoch.pop("seconds")
    return plain
