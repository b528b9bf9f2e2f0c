"""The state of a study: its records, who is at which run now, and what Slurm says of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pbt_bench.running.claims import Owner, active
from pbt_bench.running.estimate import estimate
from pbt_bench.running.log import last_job, log_path, position, tail
from pbt_bench.running.outcomes import outcomes
from pbt_bench.running.progress import duration
from pbt_bench.running.slurm.view import Place, view
from pbt_bench.running.store import Store
from pbt_bench.spec import Grid, RunSpec

LOG_LINES = 3

RECORDED = ("done", "collapsed", "diverged", "failed")
_REASONS = {"None": "not yet looked at by the scheduler", "": "waiting"}
UNFINISHED = ("running", "pending", "lost", "missing")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run that is not simply done; what is not known is None."""

    run_id: str
    label: str
    state: str
    host: str | None = None
    job: str | None = None  # Slurm's id
    epoch: int | None = None
    epochs: int | None = None
    seconds_left: float | None = None
    why: str | None = None  # it failed, waits, or was lost
    log: tuple[str, ...] = ()  # the last lines of a lost run's
    own_log: bool = False  # not only its job's


@dataclass(frozen=True)
class Summary:
    """Counts by state (they add up to `total`), and every run that is failed, running, pending or lost.

    `pending`: Slurm has it in its queue, or in a job that is at other runs. `lost`: its job is over and left no record.
    `missing`: no record, and nobody is at it.
    """

    name: str
    total: int
    counts: Counter[str]
    seconds_left: float | None  # of one worker; None if nothing was measured
    runs: tuple[Run, ...]
    warning: str | None = None  # Slurm did not answer
    folder: Path = field(default=Path())

    @property
    def unfinished(self) -> int:
        """Runs without a record."""
        return sum(self.counts[state] for state in UNFINISHED)

    @property
    def eta(self) -> float | None:
        """Seconds until everything is done with as many workers as there are now."""
        workers = self.counts["running"]
        return self.seconds_left / workers if self.seconds_left and workers else None

    def of(self, state: str) -> list[Run]:
        """The runs in one state."""
        return [run for run in self.runs if run.state == state]

    def line(self) -> str:
        """One line for people."""
        shown = [f"{self.counts[state]} {state}" for state in (*RECORDED, *UNFINISHED) if self.counts[state]]
        left = ""
        if self.unfinished and self.seconds_left is not None:
            left = f" (about {duration(self.seconds_left)} of one worker)"
            if self.eta is not None:
                left = f" (ETA {duration(self.eta)})"
        return f"{self.name}: {self.total} runs: {', '.join(shown) or '0 done'}{left}"

    def to_json(self) -> str:
        """Everything, for scripts."""
        return msgspec.json.encode(
            {
                "name": self.name,
                "total": self.total,
                **{state: self.counts[state] for state in (*RECORDED, *UNFINISHED)},
                "seconds_left": self.seconds_left,
                "eta_seconds": self.eta,
                "warning": self.warning,
                "failures": [{"run_id": r.run_id, "label": r.label, "error": r.why} for r in self.of("failed")],
                "runs": self.runs,
            }
        ).decode()


def summary(grid: Grid, store: Store, ask_slurm: bool = True) -> Summary:
    """The state of `grid`. Reads and asks, never waits for a job."""
    specs = {spec.run_id: spec for spec in grid.runs()}
    found = outcomes(store.runs, specs)
    at = {run: who for run, who in active(store.folder).items() if run in specs and run not in found}
    rest = [run for run in specs if run not in found and run not in at]
    seen = view(grid.name, store.folder, rest if ask_slurm else ())
    if seen.places:  # a run may have ended, and its job too, between the first look and Slurm's answer
        found |= outcomes(store.runs, rest)
        rest = [run for run in rest if run not in found]
    runs = [
        *(Run(run_id=o.run_id, label=specs[o.run_id].label, state="failed", why=o.error_line)
          for o in found.values() if o.status == "failed"),
        *(_running(store, specs[run], who) for run, who in at.items()),
        *(_elsewhere(store, specs[run], seen.places[run], bool(seen.error)) for run in rest if run in seen.places),
    ]  # fmt: skip
    counts = Counter(outcome.status for outcome in found.values()) + Counter(
        r.state for r in runs if r.state != "failed"
    )
    counts["missing"] = len(specs) - counts.total()
    left = estimate(list(specs.values()), [spec for run, spec in specs.items() if run not in found], found).seconds
    return Summary(grid.name, len(specs), counts, left, _ordered(runs), seen.error, store.folder)


def _ordered(runs: Collection[Run]) -> tuple[Run, ...]:
    order = ("failed", "lost", "running", "pending")
    return tuple(sorted(runs, key=lambda run: (order.index(run.state), run.label)))


def _running(store: Store, spec: RunSpec, who: Owner) -> Run:
    epoch, epochs, left = position(log_path(store.folder, spec.run_id)) or (None, spec.recipe.epochs, None)
    return Run(
        run_id=spec.run_id, label=spec.label, state="running", host=who.host, job=who.job,
        epoch=epoch, epochs=epochs, seconds_left=left,
    )  # fmt: skip


def _elsewhere(store: Store, spec: RunSpec, place: Place, unknown: bool) -> Run:
    """A run that nobody is at, by where Slurm has or had it."""
    own, job = [], []
    state, why = "lost", _REASONS.get(place.why, place.why)
    if unknown:
        state, why = "pending", "submitted; Slurm does not answer"
    elif place.live and place.state == "PENDING":
        state = "pending"
    elif place.live:
        state, why = "pending", f"its job is {place.state.lower()} on {place.node}"
    else:
        log = log_path(store.folder, spec.run_id)
        own = tail(log, LOG_LINES) if last_job(log) == place.job else []  # else it is of an earlier job
        job = [] if own else tail(place.log, LOG_LINES)
        if place.attempts > 1:
            why = f"{why} ({place.attempts} times)"
    return Run(
        run_id=spec.run_id, label=spec.label, state=state, job=place.job, host=place.node or None, why=why,
        log=(*own, *job), own_log=bool(own),
    )  # fmt: skip
