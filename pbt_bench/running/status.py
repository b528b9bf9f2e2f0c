"""The state of a study, from its records, the claims of workers, and Slurm's queue and accounting."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import msgspec

from pbt_bench.errors import counted
from pbt_bench.running.claims import Owner, active
from pbt_bench.running.estimate import estimate
from pbt_bench.running.log import last_job, log_path, position, tail
from pbt_bench.running.matching import find_others
from pbt_bench.running.outcomes import Outcome, outcomes
from pbt_bench.running.probes import read_timings
from pbt_bench.running.progress import duration
from pbt_bench.running.slurm.cost import Rates
from pbt_bench.running.slurm.submissions import last_rates
from pbt_bench.running.slurm.view import LastJob, view
from pbt_bench.running.store import Store
from pbt_bench.spec import Grid, RunSpec

LOG_LINES = 3  # of a lost run

RECORDED = ("done", "collapsed", "diverged", "failed", "newer", "unreadable")
_REASONS = {"None": "not yet considered by the scheduler", "": "waiting"}
UNFINISHED = ("running", "pending", "lost", "superseded", "damaged", "missing")
_ORDER = ("failed", "unreadable", "lost", "running", "pending", "damaged", "superseded")  # of states in a list of runs


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run whose state is not a result, and is not missing; unknown values are None."""

    run_id: str
    label: str
    state: str
    host: str | None = None
    job: str | None = None  # Slurm's id
    epoch: int | None = None
    epochs: int | None = None
    seconds_left: float | None = None
    why: str | None = None  # reason of the state
    log: tuple[str, ...] = ()  # last lines, for a lost run
    own_log: bool = False  # `log` is from the run's own log, not from its job's log


@dataclass(frozen=True)
class Summary:
    """Counts by state, which add up to `total`, and every run that has neither a result nor is missing.

    `pending`: in Slurm's queue, or in a job that executes other runs. `lost`: its job ended without leaving a record.
    `superseded`: with a record of another revision of the code only. `missing`: without a record, a claim or a job.
    `damaged`: with a file that is no record. `unreadable`: with a file that cannot be read, and may be a record.
    `newer`: with a record of a newer version of pbt-bench. `migrated` records count by their state too.
    """

    name: str
    total: int
    counts: Counter[str]
    seconds_left: float | None  # with one worker; None if no run was measured
    runs: tuple[Run, ...]
    warning: str | None = None  # Slurm did not answer
    rates: Rates | None = None  # of the last submission
    migrated: int = 0  # records whose file has the run id of an earlier version

    @property
    def unfinished(self) -> int:
        """Number of runs without a record."""
        return sum(self.counts[state] for state in UNFINISHED)

    @property
    def eta(self) -> float | None:
        """Seconds until all runs are finished by the present number of workers."""
        workers = self.counts["running"]
        return self.seconds_left / workers if self.seconds_left and workers else None

    @property
    def hours_left(self) -> dict[str, float | None]:
        """GPU hours, or job hours, and TRES hours of the unfinished runs in the jobs of the last submission."""
        hours = self.rates.hours(self.seconds_left) if self.rates and self.seconds_left is not None else {}
        return {unit: hours.get(unit) for unit in ("job hours", "GPU hours", "TRES hours")}

    def of(self, state: str) -> list[Run]:
        """Return the runs in one state."""
        return [run for run in self.runs if run.state == state]

    def line(self) -> str:
        """Return a summary in one line."""
        shown = [f"{self.counts[state]} {state}" for state in (*RECORDED, *UNFINISHED) if self.counts[state]]
        left = ""
        if self.unfinished and self.seconds_left is not None:
            left = f" (about {duration(self.seconds_left)} with one worker)"
            if self.eta is not None:
                left = f" (ETA {duration(self.eta)})"
            if self.rates:
                left = f"{left[:-1]}; {self.rates.text(self.seconds_left)})"
        migrated = f"; {counted(self.migrated, 'record')} migrated from an earlier version" if self.migrated else ""
        return f"{self.name}: {self.total} runs: {', '.join(shown) or '0 done'}{migrated}{left}"

    def to_json(self) -> str:
        """Encode counts and runs as JSON."""
        return msgspec.json.encode(
            {
                "name": self.name,
                "total": self.total,
                **{state: self.counts[state] for state in (*RECORDED, *UNFINISHED)},
                "migrated": self.migrated,
                "seconds_left": self.seconds_left,
                "eta_seconds": self.eta,
                **{f"{unit.replace(' ', '_').lower()}_left": value for unit, value in self.hours_left.items()},
                "warning": self.warning,
                "failures": [{"run_id": r.run_id, "label": r.label, "error": r.why} for r in self.of("failed")],
                "runs": self.runs,
            }
        ).decode()


def summary(grid: Grid, store: Store, ask_slurm: bool = True) -> Summary:
    """Determine the state of `grid` from files and Slurm's present answers, without waiting for jobs."""
    specs = {spec.run_id: spec for spec in grid.runs()}
    others = find_others(store, specs)
    found, damaged = _split(outcomes(store, specs))
    running = {run: owner for run, owner in active(store.folder).items() if run in specs and run not in found}
    rest = [run for run in specs if run not in found and run not in running]
    seen = view(store.folder, rest if ask_slurm else ())
    if seen.jobs:  # a run and its job may have ended between reading the records and Slurm's answer
        found |= _split(outcomes(store, rest))[0]
        rest = [run for run in rest if run not in found]
    runs = [
        *(Run(run_id=run, label=specs[run].label, state=o.status, why=o.error_line)
          for run, o in found.items() if o.status in ("failed", "unreadable")),
        *(_running(store, specs[run], owner) for run, owner in running.items()),
        *(_submitted(store, specs[run], seen.jobs[run], bool(seen.error)) for run in rest if run in seen.jobs),
        *(Run(run_id=run, label=specs[run].label, state="damaged", why=damaged[run].error_line)
          for run in rest if run in damaged and run not in seen.jobs),
        *(Run(run_id=run, label=specs[run].label, state="superseded", why=others.superseded[run][1])
          for run in rest if run in others.superseded and run not in seen.jobs),
    ]  # fmt: skip
    runs.sort(key=lambda run: (_ORDER.index(run.state), run.label))
    counts: Counter[str] = Counter(outcome.status for outcome in found.values())
    counts.update(run.state for run in runs if run.state not in RECORDED)
    counts["missing"] = len(specs) - counts.total()
    todo = [spec for run, spec in specs.items() if run not in found]
    left = estimate(specs, todo, found, read_timings(store.folder)).seconds
    rates = last_rates(store.folder) if todo else None
    return Summary(grid.name, len(specs), counts, left, tuple(runs), seen.error, rates, len(others.migrated))


def _split(found: dict[str, Outcome]) -> tuple[dict[str, Outcome], dict[str, Outcome]]:
    """Separate the runs that need no execution from those with a damaged file, which do."""
    damaged = {run: outcome for run, outcome in found.items() if outcome.status == "damaged"}
    return {run: outcome for run, outcome in found.items() if run not in damaged}, damaged


def _running(store: Store, spec: RunSpec, owner: Owner) -> Run:
    epoch, epochs, left = position(log_path(store.folder, spec.run_id)) or (None, spec.recipe.epochs, None)
    return Run(
        run_id=spec.run_id, label=spec.label, state="running", host=owner.host, job=owner.job,
        epoch=epoch, epochs=epochs, seconds_left=left,
    )  # fmt: skip


def _submitted(store: Store, spec: RunSpec, job: LastJob, unknown: bool) -> Run:
    """Describe a run without a claim by its last job."""
    own, job_log = [], []
    state, why = "lost", _REASONS.get(job.why, job.why)
    if unknown:
        state, why = "pending", "submitted; Slurm does not answer"
    elif job.live and job.state == "PENDING":
        state = "pending"
    elif job.live:
        state, why = "pending", f"its job is {job.state.lower()} on {job.node}"
    else:
        log = log_path(store.folder, spec.run_id)
        own = tail(log, LOG_LINES) if last_job(log) == job.job else []  # otherwise it is from an earlier job
        job_log = [] if own else tail(job.log, LOG_LINES)
        if job.attempts > 1:
            why = f"{why} ({job.attempts} times)"
    return Run(
        run_id=spec.run_id, label=spec.label, state=state, job=job.job, host=job.node or None, why=why,
        log=(*own, *job_log), own_log=bool(own),
    )  # fmt: skip
