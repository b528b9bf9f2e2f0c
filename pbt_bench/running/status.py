"""The state of a study, read from its records."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import mean

import msgspec

from pbt_bench.running.plan import plan
from pbt_bench.running.progress import duration
from pbt_bench.running.store import Store
from pbt_bench.spec import Grid


@dataclass(frozen=True)
class Summary:
    """Counts by state, the worker-seconds still to spend (None if nothing was measured), and failures."""

    name: str
    total: int
    counts: Counter[str]
    seconds_left: float | None
    failures: tuple[tuple[str, str, str], ...]  # (run id, label, what went wrong)

    @property
    def missing(self) -> int:
        """Runs without a record."""
        return self.total - sum(self.counts.values())

    def line(self) -> str:
        """One line for people."""
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.counts.items()))
        parts = [f"{self.name}: {self.total} runs: {states or '0 done'}"]
        if self.missing:
            left = "" if self.seconds_left is None else f" (about {duration(self.seconds_left)} of one worker)"
            parts.append(f"{self.missing} missing{left}")
        return ", ".join(parts)

    def text(self) -> str:
        """The line, and below it every failure."""
        return "\n".join([self.line(), *(f"failed: {label} ({run}): {why}" for run, label, why in self.failures)])

    def to_json(self) -> str:
        """The same for scripts."""
        return msgspec.json.encode(
            {
                "name": self.name,
                "total": self.total,
                **{state: self.counts[state] for state in ("done", "collapsed", "diverged", "failed")},
                "missing": self.missing,
                "seconds_left": self.seconds_left,
                "failures": [{"run_id": run, "label": label, "error": why} for run, label, why in self.failures],
            }
        ).decode()


def summary(grid: Grid, store: Store) -> Summary:
    """Read the records of `grid`."""
    found = plan(grid, store)
    records = list(found.records.values())
    seconds = [float(r.environment["seconds"]) for r in records if r.environment.get("seconds") is not None]
    left = len(found.specs) - len(records)
    return Summary(
        grid.name,
        len(found.specs),
        Counter(record.status for record in records),
        mean(seconds) * left if seconds else None,
        tuple((r.run_id, r.spec.label, r.error_line or "") for r in records if r.status == "failed"),
    )
