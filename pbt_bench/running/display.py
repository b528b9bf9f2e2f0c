"""Show the state of a study: as a table on a terminal, as plain lines in other outputs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pbt_bench.errors import counted, printable, printable_json
from pbt_bench.running.progress import duration
from pbt_bench.running.status import Run, Summary

_MOST_ROWS = 20  # rows of each kind; --json prints all

_STATUS_COLOURS = {
    "failed": "red", "unreadable": "red", "lost": "red", "running": "green", "pending": "yellow", "damaged": "yellow",
    "superseded": "yellow",
}  # fmt: skip


def plain(state: Summary) -> str:
    """Return the counts, and below them the runs that need attention."""
    lines = [state.line()]
    if state.warning:
        lines.append(f"warning: {printable(state.warning)}")
    for kind in _STATUS_COLOURS:
        for title, detail in _rows_of(state, kind):
            lines.append(f"{kind}: {title}: {detail}" if title else f"    {detail}")
    return "\n".join(lines)


def table(state: Summary) -> Group:
    """Return the content of `plain` as a coloured table."""
    parts: list[Text | Table] = [Text(state.line(), style="bold")]
    if state.warning:
        parts.append(Text(f"warning: {printable(state.warning)}", style="red"))
    rows = Table(box=None, show_header=False, pad_edge=False)
    for kind, colour in _STATUS_COLOURS.items():
        for title, detail in _rows_of(state, kind):
            style = "" if title else "dim"
            rows.add_row(Text(kind if title else "", style=colour), Text(title), Text(detail, style=style))
    if rows.row_count:
        parts.append(rows)
    return Group(*parts)


def show(state: Summary, json: bool = False) -> None:
    """Print the state: as JSON, as a table on a terminal, or as plain lines."""
    if (console := Console()).is_terminal and not json:
        console.print(table(state))
    else:
        print(printable_json(state.to_json()) if json else plain(state), flush=True)


def watch(read: Callable[[], Summary], seconds: float, json: bool = False) -> Summary:
    """Show the state every `seconds` until no run is running or pending; return the last state."""
    console = Console()
    state = read()
    with Live(console=console, auto_refresh=False) if console.is_terminal and not json else nullcontext() as live:
        while True:
            if live:
                live.update(table(state), refresh=True)
            else:
                show(state, json)
            if not state.counts["running"] and not state.counts["pending"]:
                return state
            time.sleep(seconds)
            state = read()


def _rows_of(state: Summary, kind: str) -> list[tuple[str, str]]:
    """Return (title, detail) rows of one kind; a row without a title belongs to the row above."""
    runs = state.of(kind)
    describe = {
        "failed": _failed_rows, "unreadable": _failed_rows, "damaged": _failed_rows,
        "running": _running_rows, "lost": _lost_rows,
        "pending": _reason_rows, "superseded": _reason_rows,
    }[kind]  # fmt: skip
    each_run = kind in ("failed", "unreadable", "damaged", "running")
    rows = describe(runs[:_MOST_ROWS] if each_run else runs)
    if each_run and len(runs) > _MOST_ROWS:
        rows.append(("", f"and {len(runs) - _MOST_ROWS} more (--json prints all)"))
    return [(printable(title), printable(detail)) for title, detail in rows]


def _failed_rows(runs: Sequence[Run]) -> list[tuple[str, str]]:
    return [(f"{run.label} ({run.run_id})", run.why or "") for run in runs]


def _running_rows(runs: Sequence[Run]) -> list[tuple[str, str]]:
    rows = []
    for run in runs:
        eta = "" if run.seconds_left is None else f", ETA {duration(run.seconds_left)}"
        where = f"on {run.host}" + (f", job {run.job}" if run.job else "")
        at = "preparing" if run.epoch is None else f"epoch {run.epoch}/{run.epochs}{eta},"
        rows.append((f"{run.label} ({run.run_id})", f"{at} {where}"))
    return rows


def _reason_rows(runs: Sequence[Run]) -> list[tuple[str, str]]:
    return [(counted(count, "run"), why) for why, count in Counter(run.why or "" for run in runs).most_common()]


def _lost_rows(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Group lost runs by job; below each job, give the last lines of its log or of the log of one of its runs."""
    jobs: dict[tuple[str | None, str | None], list[Run]] = {}
    for run in runs:
        jobs.setdefault((run.job, run.why), []).append(run)
    rows = []
    for (job, why), members in list(jobs.items())[:_MOST_ROWS]:
        first = max(members, key=lambda run: run.own_log)
        rows.append((counted(len(members), "run"), f"job {job}: {why}"))
        rows += [("", f"{first.label} ({first.run_id}){' and others' if len(members) > 1 else ''}")]
        rows += [("", f"| {line}") for line in first.log]
    if len(jobs) > _MOST_ROWS:
        rows.append(("", f"and the runs of {len(jobs) - _MOST_ROWS} more jobs (--json prints all)"))
    return rows
