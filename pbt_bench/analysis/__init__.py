"""Analysis of records: read them into a data frame, then write figures, tables and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pbt_bench.analysis.pages.report import write_report
    from pbt_bench.analysis.records.data_frame import load_results

__all__ = ["load_results", "write_report"]


def __getattr__(name: str) -> Any:
    # pandas and matplotlib take a second to import, and training does not need them.
    if name == "load_results":
        from pbt_bench.analysis.records.data_frame import load_results

        return load_results
    if name == "write_report":
        from pbt_bench.analysis.pages.report import write_report

        return write_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
