"""Messages between the parent process and its workers."""

from __future__ import annotations

from dataclasses import dataclass

from pbt_bench.running.record import RunRecord


@dataclass(frozen=True)
class Assignment:
    """Tell a worker to execute one run."""

    spec: bytes  # JSON
    retry_failed: bool


@dataclass(frozen=True)
class Finished:
    """Report that the run has a record."""

    status: str
    error: str | None

    @classmethod
    def of(cls, record: RunRecord) -> Finished:
        """Summarise `record` for the parent process."""
        return cls(record.status, record.error_line)


@dataclass(frozen=True)
class Advanced:
    """Report that the run finished an epoch."""

    epoch: int


@dataclass(frozen=True)
class Claimed:
    """Report that another worker, of any process or machine, holds the claim of the run."""


@dataclass(frozen=True)
class Full:
    """Report that the results folder cannot be written."""

    error: str
