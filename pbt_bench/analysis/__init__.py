"""Records -> one data frame -> figures, tables, report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pbt_bench.analysis.frame import load_results
    from pbt_bench.analysis.report import write_report

__all__ = ["load_results", "write_report"]


def __getattr__(name: str) -> Any:
    # pandas and matplotlib take a second to import; a run that only trains never needs them.
    if name == "load_results":
        from pbt_bench.analysis.frame import load_results

        return load_results
    if name == "write_report":
        from pbt_bench.analysis.report import write_report

        return write_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
