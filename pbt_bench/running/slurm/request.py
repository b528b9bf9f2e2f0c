"""The verb `submit`: choose the runs of a study to submit, and submit or show them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec

from pbt_bench.errors import RequestError, counted
from pbt_bench.running.estimate import Estimate, estimate
from pbt_bench.running.matching import find_others
from pbt_bench.running.outcomes import file_digest, outcomes
from pbt_bench.running.probes import PROBE, probe_runs, read_timings
from pbt_bench.running.slurm.command import SlurmError
from pbt_bench.running.slurm.cost import Rates, job_rates
from pbt_bench.running.slurm.limits import submit_limit
from pbt_bench.running.slurm.pack import DEFAULT_ARRAY_SIZE, Element, array_size, chunk, pack
from pbt_bench.running.slurm.profile import Profile
from pbt_bench.running.slurm.submissions import Settings
from pbt_bench.running.slurm.view import View, view
from pbt_bench.running.store import Store
from pbt_bench.spec import Grid

_ENDING_SECONDS = 40.0  # longest wait for jobs that are being cancelled: Slurm's KillWait is 30


def request(
    grid: Grid, store: Store, profile: Profile, data: Path, *, dry_run: bool, retry_failed: bool, probe: bool = False,
    say: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Submit the missing runs of `grid` that no live job has; with `dry_run`, show them instead.

    With `probe`, submit short runs that are timed, with as many at a time as the runs of the study will have.
    Raises RequestError if Slurm does not answer or refuses.
    """
    study, specs, name = store.folder, grid.runs(), grid.name
    if probe:
        specs, store, name = probe_runs(specs, profile.workers), Store(study / PROBE), f"{name}, probes"
        profile = msgspec.structs.replace(profile, runs_per_job=profile.workers, array_parallelism=None)
    path = str(store.folder.absolute())
    if not path.isprintable() or any(character in path for character in "%\\"):
        raise RequestError(f"{path!r}: Slurm cannot write logs to a path with %, a backslash or a line break")
    ids = {spec.run_id: spec for spec in specs}
    others = find_others(store, ids)
    found = outcomes(store, ids)

    def wanted() -> list[str]:
        again = ("damaged", "failed") if retry_failed else ("damaged",)
        return [run for run in ids if run not in found or found[run].status in again]

    seen = _settled(store.folder, wanted())
    if seen.error and not dry_run:
        raise RequestError(f"{seen.error}; nothing was submitted")
    if seen.error:
        say(f"warning: {seen.error}; runs in live jobs are not known")
    if seen.jobs:  # a run and its job may have ended before Slurm answered
        found |= outcomes(store, wanted())
    todo, words = _choose(wanted(), seen, 1_000_000 if retry_failed else profile.attempts)
    failed = sum(outcome.status == "failed" for outcome in found.values())
    if failed and not retry_failed:
        words.append(f"{failed} failed (--retry-failed runs them again)")
    if superseded := others.superseded.keys() & set(todo):
        words.append(f"{len(superseded)} of the submitted superseded by another revision of the code")
    for outcome in found.values():
        if outcome.status in ("damaged", "unreadable"):
            print(f"warning: {outcome.error_line}", file=sys.stderr)
    if newer := sum(outcome.status == "newer" for outcome in found.values()):
        words.append(f"{newer} written by a newer pbt-bench")
    counts = ", ".join([f"{len(todo)} to submit", f"{len(found)} with a record", *words])
    say(f"{name}: {len(specs)} runs: {counts}")
    if not todo:
        return
    rates = job_rates(profile)
    elements = pack([ids[run] for run in todo], profile)
    if (limit := submit_limit(profile)) and limit.free < len(elements):
        kept, held = elements[: limit.free], sum(map(len, elements[limit.free :]))
        say(
            f"{limit.name} = {limit.most}, and {counted(limit.used, 'job')} of yours in the queue: "
            f"{held} runs are held back; submit again when jobs have ended"
        )
        elements = kept
    if not elements and not dry_run:
        return
    arrays = chunk(elements, _array_size_or_default(profile, dry_run, say)) if elements else []
    if dry_run:
        _show(store.folder, profile, arrays, say)
        if not probe:
            say(_cost(estimate(ids, [ids[run] for run in todo], found, read_timings(study)), rates))
        return
    from pbt_bench.running.slurm.submit import submit

    store.prepare()
    retried = {run: file_digest(store.path(run)) for run in todo if run in found}
    settings = Settings(
        study=path, data=str(data if "$" in str(data) else data.absolute()), stage=profile.stage,
        device=profile.worker_device, workers=profile.workers, checkpoint_seconds=60 * profile.checkpoint_minutes,
        clusters=profile.clusters, rates=rates, retried=retried,
    )  # fmt: skip
    submit(settings, profile, arrays, say)


def _settled(folder: Path, ids: Collection[str]) -> View:
    """Return Slurm's view after no job is completing: a completing job may still leave a record or be requeued."""
    end = time.monotonic() + _ENDING_SECONDS
    while True:
        seen = view(folder, ids)
        ending = any(job.live and job.state == "COMPLETING" for job in seen.jobs.values())
        if not ending or time.monotonic() > end:
            return seen
        time.sleep(2)


def _choose(wanted: Sequence[str], seen: View, attempts: int) -> tuple[list[str], list[str]]:
    """Return the runs to submit, and messages on the other runs of `wanted`."""
    last = {run: seen.jobs[run] for run in wanted if run in seen.jobs}
    live = {run for run, job in last.items() if job.live}
    spent = {run for run, job in last.items() if job.attempts >= attempts} - live
    jobs = {last[run].job for run in live}
    words = [f"{len(live)} on their way in {counted(len(jobs), 'job')}"] if live else []
    if spent:
        words.append(f"{len(spent)} lost {attempts} times (see status; --retry-failed submits them once more)")
    return [run for run in wanted if run not in live and run not in spent], words


def _cost(found: Estimate, rates: Rates) -> str:
    """Return the estimated cost in GPU hours, or in job hours for jobs without a GPU, and in TRES hours."""
    if found.seconds is None:
        unit = next(iter(rates.hours(0)))
        return f"{unit}: unknown, because no run of this study was measured (submit --probe times one of each model)"
    return f"{rates.text(found.seconds)} (from {found.basis})"


def _array_size_or_default(profile: Profile, dry_run: bool, say: Callable[[str], None]) -> int:
    try:
        return array_size(profile.clusters)
    except SlurmError as error:
        if not dry_run:
            raise
        say(f"warning: {error}; arrays are shown as for MaxArraySize = {DEFAULT_ARRAY_SIZE}, Slurm's default")
        return DEFAULT_ARRAY_SIZE


def _show(folder: Path, profile: Profile, arrays: Sequence[Sequence[Element]], say: Callable[[str], None]) -> None:
    from pbt_bench.running.slurm.submit import script

    name = folder.absolute() / "slurm" / "SUBMISSION"
    gpus = profile.requested_gpus
    device = f"device {profile.worker_device}" + (f" (GPUs per job: {gpus})" if gpus != "0" else "")
    for number, array in enumerate(arrays):
        say(f"\n== array {number}: {len(array)} elements, {profile.workers} runs at a time in each, {device}")
        for index, element in enumerate(array):
            say(f"element {index}:")
            for spec in element:
                say(f"  {spec.run_id}  {spec.label}")
        say(f"\n== sbatch script of array {number}\n")
        say(script(name, profile, len(arrays), number, len(array)))
