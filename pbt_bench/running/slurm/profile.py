"""A cluster profile, one TOML file per cluster: where runs are executed. It is not part of a run's identity."""

from __future__ import annotations

import re
from math import inf
from pathlib import Path

import msgspec

from pbt_bench.constraints import convert, read_toml

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})")
_MEMORY = re.compile(r"[1-9]\d*[KMGT]?")
_OPTION = re.compile(r"[a-z][a-z0-9_-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")  # a line break would start another directive
_DIRECTIVE = re.compile(r"\s*#\s*(SBATCH|PBS|BSUB)")
_OWN = {
    "partition", "account", "qos", "constraint", "gpus-per-node", "cpus-per-task", "mem", "time", "array", "signal",
    "job-name", "comment", "output", "error", "open-mode", "requeue", "no-requeue", "ntasks-per-node", "nodes",
    "parsable", "test-only", "wait", "wrap",
}  # fmt: skip


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The resources of one array element (a "job"), and how it executes its runs."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int = 0  # per job
    cpus: int = 1  # per job
    memory: str | None = None  # per job: a number with K, M, G or T; default: the cluster's
    time: str | int = "4:00:00"  # limit of one job: minutes, or Slurm's D-HH:MM:SS
    array_parallelism: int | None = None  # jobs at a time
    runs_per_job: int = 8  # at most; fewer if more jobs could run at a time
    side_by_side: int = 1  # runs at a time on each GPU, or per job without GPUs
    device: str | None = None  # cuda or cpu; default: cuda if gpus > 0
    setup: tuple[str, ...] = ()  # shell lines at the start of the job, for example module load
    signal_delay: int = 120  # seconds before the limit at which the job checkpoints and requeues itself
    checkpoint_minutes: float = 5.0  # between saved states of a run, in case a node crashes
    requeues: int = 20  # after a time limit; a preempted job is always requeued
    attempts: int = 3  # submissions of a run whose jobs end without a record
    data: str | None = None  # folder of the datasets on the nodes
    sbatch: dict[str, str | int | bool] = {}  # further options of sbatch, without the dashes

    def __post_init__(self) -> None:
        for name, low in (
            ("gpus", 0), ("cpus", 1), ("array_parallelism", 1), ("runs_per_job", 1), ("side_by_side", 1),
            ("signal_delay", 10), ("requeues", 0), ("attempts", 1), ("checkpoint_minutes", 0.01),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not low <= value < inf:
                raise ValueError(f"{name} = {value} must be at least {low}")
        for name, text in self._texts():
            if _CONTROL.search(text):
                raise ValueError(f"{name} = {text!r}: line breaks and control characters are not allowed")
        for line in self.setup:
            if _DIRECTIVE.match(line):
                raise ValueError(f"setup: {line!r} is an option of sbatch; options belong below [sbatch]")
        if self.memory is not None and not _MEMORY.fullmatch(self.memory):
            raise ValueError(f"memory = {self.memory!r} must be a number and K, M, G or T, for example '16G'")
        if self.device not in (None, "cpu", "cuda"):
            raise ValueError(f"device = {self.device!r} must be 'cpu' or 'cuda'")
        if self.signal_delay >= 60 * self.minutes:
            raise ValueError(f"signal_delay = {self.signal_delay} seconds must be below time = {self.time!r}")
        for option, value in self.sbatch.items():
            if not _OPTION.fullmatch(option):
                raise ValueError(f"sbatch: {option!r} must be the long name of an option of sbatch, without dashes")
            if any(own.startswith(option.replace("_", "-")) for own in _OWN):  # sbatch takes abbreviations
                raise ValueError(f"sbatch.{option} is set by pbt-bench or by another key of the profile")
            if value is False:
                raise ValueError(f"sbatch.{option} = false: leave the key out")

    def _texts(self) -> list[tuple[str, str]]:
        """Return (key, value) of every text that is copied into the script."""
        names = ("partition", "account", "qos", "constraint", "data")
        texts = [(name, text) for name in names if isinstance(text := getattr(self, name), str)]
        texts += [("setup", line) for line in self.setup]
        return texts + [(f"sbatch.{name}", value) for name, value in self.sbatch.items() if isinstance(value, str)]

    @property
    def minutes(self) -> int:
        """The time limit, rounded up to minutes as Slurm does. Raises ValueError if it is invalid."""
        match = _TIME.fullmatch(str(self.time))
        parts = [int(part) for part in match["clock"].split(":")] if match else []
        if match and match["days"] is not None:  # D-H, D-H:M, D-H:M:S
            hours, minutes, seconds = (*parts, 0, 0)[:3]
            total = ((int(match["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
        elif len(parts) == 3:
            total = (parts[0] * 60 + parts[1]) * 60 + parts[2]
        else:  # M, M:S
            total = sum(part * unit for part, unit in zip(parts, (60, 1), strict=False))
        if total <= 0:
            raise ValueError(f"time = {self.time!r} must be minutes, 'HH:MM:SS' or 'D-HH:MM:SS', above 0")
        return -(-total // 60)

    @property
    def workers(self) -> int:
        """Number of runs at a time in one job."""
        return max(1, self.gpus) * self.side_by_side

    @property
    def worker_device(self) -> str:
        """The device of the workers: cuda or cpu."""
        return self.device or ("cuda" if self.gpus else "cpu")


def load_profile(path: str | Path) -> Profile:
    """Read a profile. Raises RequestError in one line with the file, the key and the nearest valid key."""
    return convert(read_toml(path), Profile, str(path))
