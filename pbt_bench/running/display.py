"""A study's state for people: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pbt_bench.running.progress import duration
from pbt_bench.running.status import Run, Summary

_ROWS = 20  # of each kind; --json has all

_COLOURS = {"failed": "red", "lost": "red", "running": "green", "pending": "yellow"}


def plain(state: Summary) -> str:
    """The counts, and below them what needs attention."""
    lines = [state.line()]
    if state.warning:
        lines.append(f"warning: {state.warning}")
    for kind in _COLOURS:
        for run, what in _rows(state, kind):
            lines.append(f"{kind}: {run}{f': {what}' if what else ''}")
    return "\n".join(lines)


def table(state: Summary) -> Group:
    """The same, to be looked at."""
    parts: list[Text | Table] = [Text(state.line(), style="bold")]
    if state.warning:
        parts.append(Text(f"warning: {state.warning}", style="red"))
    rows = Table(box=None, show_header=False, pad_edge=False)
    for kind, colour in _COLOURS.items():
        for run, what in _rows(state, kind):
            rows.add_row(Text(kind, style=colour), Text(run), Text(what))
    if rows.row_count:
        parts.append(rows)
    return Group(*parts)


def show(state: Summary) -> None:
    """Print it, as fits where it goes."""
    console = Console()
    if console.is_terminal:
        console.print(table(state))
    else:
        print(plain(state))


def watch(read: Callable[[], Summary], seconds: float) -> Summary:
    """Show it again and again until nothing runs or waits any more."""
    console = Console()
    state = read()
    with Live(table(state), console=console, auto_refresh=False) as live:
        while state.counts["running"] or state.counts["pending"]:
            time.sleep(seconds)
            state = read()
            live.update(table(state), refresh=True)
            if not console.is_terminal:
                print(plain(state), flush=True)
    return state


def _rows(state: Summary, kind: str) -> list[tuple[str, str]]:
    runs = state.of(kind)
    if kind == "pending":
        return [(f"{count} runs", why) for why, count in Counter(run.why or "" for run in runs).most_common()]
    describe = _running if kind == "running" else _ended
    rows = [row for run in runs[:_ROWS] for row in describe(run)]
    if len(runs) > _ROWS:
        rows.append((f"and {len(runs) - _ROWS} more", "--json names all"))
    return rows


def _running(run: Run) -> Sequence[tuple[str, str]]:
    place = f"on {run.host}" + (f", job {run.job}" if run.job else "")
    if run.epoch is None:
        return [(f"{run.label} ({run.run_id})", f"preparing {place}")]
    eta = "" if run.seconds_left is None else f", ETA {duration(run.seconds_left)}"
    return [(f"{run.label} ({run.run_id})", f"epoch {run.epoch}/{run.epochs}{eta}, {place}")]


def _ended(run: Run) -> Sequence[tuple[str, str]]:
    job = f"job {run.job} " if run.job else ""
    return [(f"{run.label} ({run.run_id})", f"{job}{run.why or ''}"), *(("", f"| {line}") for line in run.log)]
