"""What two records of one run have in common."""

from __future__ import annotations

from typing import Any

import msgspec

from pbt_bench.running.record import RunRecord


def result(record: RunRecord) -> dict[str, Any]:
    """Everything but the times, the place of execution and how often that was interrupted."""
    assert record.error is None, record.error
    plain: dict[str, Any] = msgspec.json.decode(record.to_json())
    plain.pop("environment")
    plain["pruning"].pop("scoring_seconds")
    for epoch in plain["curve"]:
        epoch.pop("seconds")
    return plain
