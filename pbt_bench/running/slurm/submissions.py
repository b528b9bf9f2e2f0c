"""The folder of one submission, `<study>/slurm/<date>-<time>-<microseconds>/`: the runs of its array elements.

submission.json   the settings that all its jobs share
elements.json     array -> element -> run ids, for status
array-N.jsonl     one line per element: the specs of its runs, for the nodes
jobs              a line `N JOB_ID` per array that Slurm accepted
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import islice
from pathlib import Path

import msgspec

from pbt_bench.running.probes import PROBE
from pbt_bench.running.slurm.cost import Rates
from pbt_bench.running.slurm.pack import Element
from pbt_bench.running.store import Store, content
from pbt_bench.spec import RunSpec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that all jobs of a submission share."""

    study: str  # absolute path
    data: str  # absolute, or with variables that the node expands
    device: str
    workers: int
    checkpoint_seconds: float = 300.0
    clusters: str | None = None
    stage: str | None = None  # folder on the node's disk for copies of the datasets
    rates: Rates | None = None
    retried: dict[str, str] = {}  # run id -> digest of the failed record to replace


@dataclass(frozen=True)
class Submission:
    """The folder of a submission, which is written once."""

    folder: Path

    @classmethod
    def create(cls, settings: Settings, arrays: Sequence[Sequence[Element]]) -> Submission:
        """Write the folder of a submission, before its arrays are submitted."""
        while True:
            now = datetime.now()
            folder = Path(settings.study) / "slurm" / f"{now:%Y%m%d-%H%M%S}-{now.microsecond:06}"
            try:
                folder.mkdir(parents=True)
                break
            except FileExistsError:
                continue
        for number, array in enumerate(arrays):
            lines = (msgspec.json.encode([msgspec.Raw(spec.to_json()) for spec in element]) for element in array)
            (folder / f"array-{number}.jsonl").write_bytes(b"\n".join(lines))
        ids = [[[spec.run_id for spec in element] for element in array] for array in arrays]
        (folder / "submission.json").write_bytes(msgspec.json.encode(settings))
        Store.put(folder / "elements.json", msgspec.json.encode(ids))  # last: without it the folder is incomplete
        return cls(folder)

    def accepted(self, array: int, job: str) -> None:
        """Record Slurm's job id of an array."""
        with (self.folder / "jobs").open("a") as file:
            file.write(f"{array} {job}\n")
        self.jobs[array] = job

    @cached_property
    def settings(self) -> Settings:
        """The settings at the time of the submission."""
        return msgspec.json.decode(content(self.folder / "submission.json"), type=Settings)

    @cached_property
    def elements(self) -> list[list[list[str]]]:
        """Array -> element -> run ids."""
        return msgspec.json.decode(content(self.folder / "elements.json"), type=list[list[list[str]]])

    @cached_property
    def jobs(self) -> dict[int, str]:
        """Array -> Slurm's job id, for accepted arrays."""
        try:
            lines = content(self.folder / "jobs").decode().splitlines()
        except FileNotFoundError:
            return {}
        return {int(array): job for array, job in (line.split() for line in lines)}

    def specs(self, array: int, element: int) -> list[RunSpec]:
        """Return the runs of one element."""
        with (self.folder / f"array-{array}.jsonl").open("rb") as file:
            line = next(islice(file, element, None))
        assert line is not None
        return [RunSpec.from_json(bytes(spec)) for spec in msgspec.json.decode(line, type=list[msgspec.Raw])]

    def job_name(self, array: int) -> str:
        """Return the name that identifies an array in Slurm's queue, also if its job id was never recorded."""
        return f"pbt-{self.folder.parents[1].name}.{self.folder.name}.{array}"

    def log(self, job: str) -> Path:
        """Return the path of the log of a job: its output outside its runs."""
        return self.folder / f"{job}_0_log.err"

    def readable(self) -> bool:
        """Return whether the runs and jobs of the submission can be read; if not, print a warning to stderr."""
        try:
            return bool(self.elements) and self.jobs is not None and self.settings is not None
        except (OSError, ValueError, RecursionError) as error:
            print(f"warning: {self.folder} is not a submission ({error}); ignored", file=sys.stderr)
            return False


def submissions(study: Path) -> Iterator[Submission]:
    """Yield all submissions of a study, oldest first; incomplete folders are ignored."""
    for folder in sorted((study / "slurm").glob("*-*-*")):
        if (folder / "elements.json").exists():
            yield Submission(folder)


def all_submissions(study: Path) -> list[Submission]:
    """Return the readable submissions of a study, and of its probes."""
    return [each for folder in (study / PROBE, study) for each in submissions(folder) if each.readable()]


def last_rates(study: Path) -> Rates | None:
    """Return the rates of the last readable submission of a study, or of its probes if it has no other."""
    for folder in (study, study / PROBE):
        for submission in reversed(list(submissions(folder))):
            with suppress(OSError, ValueError):
                return submission.settings.rates
    return None
