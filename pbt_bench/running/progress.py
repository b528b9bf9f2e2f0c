"""Show the progress of a study: a live bar on a terminal, plain lines in other outputs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from pbt_bench.running.messages import Finished
from pbt_bench.spec import RunSpec

PLAIN_SECONDS = 10.0  # between two plain lines


def duration(seconds: float) -> str:
    """Format seconds as `47 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Display of the counts of finished runs, a current run and the estimated time of the end."""

    interval = 0.5  # seconds between ticks

    def __init__(self, name: str, total: int, before: Sequence[str], workers: int) -> None:
        self._name, self._total = name, total
        self._counts = Counter(before)
        self._before = len(before)
        self._workers = workers
        self._start = self._said = monotonic()
        self._current: dict[str, str] = {}
        self._console = Console(file=sys.stderr)
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            columns = (
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[counts]} · {task.fields[eta]} · {task.fields[current]}"),
            )
            self._bar = Bar(*columns, console=self._console, transient=False)
            self._task = self._bar.add_task(
                self._name, total=self._total, completed=self._before, counts="", eta="", current="starting workers"
            )
            self._bar.start()
        else:
            left = self._total - self._before
            self._print(f"{self._name}: {left} of {self._total} runs to do, {self._workers} workers")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._current.clear()
            self.tick()
            self._bar.stop()
        elif exception[0] is None:
            self._line()

    def started(self, spec: RunSpec) -> None:
        """Show that a worker started `spec`."""
        self._current[spec.run_id] = spec.label

    def advanced(self, spec: RunSpec, epoch: int) -> None:
        """Show that `spec` finished an epoch."""
        self._current[spec.run_id] = f"{spec.label}, epoch {epoch}/{spec.recipe.epochs}"

    def finished(self, spec: RunSpec, result: Finished) -> None:
        """Count `spec` as finished, and print its error if it failed."""
        self._current.pop(spec.run_id, None)
        self._counts[result.status] += 1
        if result.status == "failed":
            self._print(f"failed: {spec.label} ({spec.run_id}): {result.error}")

    def claimed(self, spec: RunSpec) -> None:
        """Show that another process or machine executes `spec`."""
        self._current[spec.run_id] = f"{spec.label} (claimed by another process)"

    def tick(self) -> None:
        """Update the bar, or print a line every `PLAIN_SECONDS`."""
        if self._bar is not None:
            current = next(iter(self._current.values()), "")
            self._bar.update(self._task, completed=self._done, counts=self._states(), eta=self._eta(), current=current)
        elif monotonic() - self._said >= PLAIN_SECONDS:
            self._line()

    @property
    def _done(self) -> int:
        return sum(self._counts.values())

    def _states(self) -> str:
        return ", ".join(f"{count} {status}" for status, count in sorted(self._counts.items())) or "0 done"

    def _eta(self) -> str:
        finished = self._done - self._before
        spent = monotonic() - self._start
        if self._done == self._total:
            return f"took {duration(spent)}"
        if finished == 0:
            return "ETA unknown"
        return f"ETA {duration(spent / finished * (self._total - self._done))}"

    def _line(self) -> None:
        self._said = monotonic()
        current = f", now {next(iter(self._current.values()))}" if self._current else ""
        self._print(f"{self._name}: {self._done}/{self._total} runs ({self._states()}), {self._eta()}{current}")

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)
