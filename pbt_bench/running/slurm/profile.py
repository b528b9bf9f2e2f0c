"""A cluster profile, one TOML file per cluster: where runs are executed. It is not part of a run's identity."""

from __future__ import annotations

import re
import shlex
from math import inf
from pathlib import Path

import msgspec

from pbt_bench.constraints import convert, read_toml
from pbt_bench.running.slurm.gpus import gpu_count, gres_request

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})")
_MEMORY = re.compile(r"[1-9]\d*[KMGT]?|0")
_OPTION = re.compile(r"[a-z][a-z0-9_-]+")
_MODULE = re.compile(r"[\w./+:@=~-]+")
_VARIABLE_NAME = re.compile(r"[A-Za-z_]\w*")
_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*\})")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")  # a line break would start another directive
_DIRECTIVE = re.compile(r"\s*#\s*(SBATCH|PBS|BSUB)")
_OWN = {  # options of sbatch that this package sets, and the key that sets them
    "partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint", "clusters": "clusters",
    "gpus-per-node": "gpus", "gpus": "gpus", "gpus-per-task": "gpus_per_task", "gpus-per-socket": "gpus",
    "cpus-per-task": "cpus", "cpus-per-gpu": "cpus", "mem": "memory", "time": "time", "array": "array_parallelism",
    "signal": "signal_delay", "wrap": "wrap", "job-name": "", "output": "", "error": "", "open-mode": "",
    "requeue": "requeues", "no-requeue": "requeues", "ntasks-per-node": "", "nodes": "", "parsable": "",
    "test-only": "", "wait": "",
}  # fmt: skip


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The resources of one array element (a "job"), and how it executes its runs."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    clusters: str | None = None  # one name, for federations and multi-cluster sites
    gpus: int | str = 0  # per job: a number or TYPE:NUMBER
    gpus_per_task: int | str = 0  # the same, by --gpus-per-task, for clusters that want it
    cpus: int = 1  # per job
    memory: str | int | None = None  # per job: number and K, M, G or T; 0: all of a node; default: the cluster's
    time: str | int = "4:00:00"  # limit of one job: minutes, or Slurm's D-HH:MM:SS
    array_parallelism: int | None = None  # jobs at a time
    runs_per_job: int = 8  # at most; fewer if more jobs could run at a time
    side_by_side: int = 1  # runs at a time on each GPU, or per job without GPUs
    device: str | None = None  # cuda or cpu; default: cuda if a GPU is requested
    modules: tuple[str, ...] = ()  # environment modules that the job loads
    env: dict[str, str | int] = {}  # environment variables; $NAME is expanded on the node
    setup: tuple[str, ...] = ()  # shell lines at the start of the job, after modules and variables
    wrap: str | None = None  # command before that of Python, for example apptainer exec image.sif
    python: str | None = None  # Python of the jobs; default: that of `submit`
    signal_delay: int = 120  # seconds before the limit at which the job checkpoints and requeues itself
    checkpoint_minutes: float = 5.0  # between saved states of a run, in case a node crashes
    requeues: int = 20  # after a time limit; a preempted job is always requeued
    attempts: int = 3  # submissions of a run whose jobs end without a record
    data: str | None = None  # folder of the datasets on the nodes; $NAME is expanded on the node
    stage: str | None = None  # folder on a node's disk that gets a copy of the datasets, once per node
    sbatch: dict[str, str | int | bool] = {}  # further options of sbatch, without the dashes

    def __post_init__(self) -> None:
        for name, low in (
            ("cpus", 1), ("array_parallelism", 1), ("runs_per_job", 1), ("side_by_side", 1),
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
        if self.memory is not None and not _MEMORY.fullmatch(str(self.memory)):
            raise ValueError(
                f"memory = {self.memory!r} must be a number and K, M, G or T, like '16G', or '0' for a whole node"
            )
        self._check_options()
        self._check_gpus()
        self._check_command()
        if self.device not in (None, "cpu", "cuda"):
            raise ValueError(f"device = {self.device!r} must be 'cpu' or 'cuda'")
        if self.signal_delay >= 60 * self.minutes:
            raise ValueError(f"signal_delay = {self.signal_delay} seconds must be below time = {self.time!r}")

    def _check_options(self) -> None:
        for option, value in self.sbatch.items():
            if not _OPTION.fullmatch(option):
                raise ValueError(f"sbatch: {option!r} must be the long name of an option of sbatch, without dashes")
            name = option.replace("_", "-")
            keys = {_OWN[own] for own in ([name] if name in _OWN else _OWN) if own.startswith(name)}  # abbreviations
            if keys:
                text = f"sbatch.{option} is set by pbt-bench or by another key of the profile"
                raise ValueError(f"{text}: {keys.pop()}" if len(keys) == 1 and "" not in keys else text)
            if value is False:
                raise ValueError(f"sbatch.{option} = false: leave the key out")
            if name in ("mem-per-cpu", "mem-per-gpu") and self.memory is not None:
                raise ValueError(f"memory = {self.memory!r} and sbatch.{option} = {value!r}: sbatch takes one of them")

    def _check_gpus(self) -> None:
        for name in ("gpus", "gpus_per_task"):
            try:
                gpu_count(getattr(self, name))
            except ValueError:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r} must be a number or TYPE:NUMBER, for example 2 or 'a100:2'"
                ) from None
        if len(requests := self._gpu_requests()) > 1:
            text = " and ".join(f"{name} = {value!r}" for name, value in requests)
            raise ValueError(f"{text} both request GPUs: keep one of them")

    def _check_command(self) -> None:
        for name, text in (("data", self.data), ("stage", self.stage), *((f"env.{k}", v) for k, v in self.env.items())):
            if isinstance(text, str) and re.search(r"[$`]", _VARIABLE.sub("", text)):
                raise ValueError(f"{name} = {text!r}: only $NAME and ${{NAME}} are expanded")
        for name in self.env:
            if not _VARIABLE_NAME.fullmatch(name):
                raise ValueError(f"env: {name!r} must be the name of an environment variable")
        for module in self.modules:
            if not _MODULE.fullmatch(module):
                raise ValueError(f"modules: {module!r} must be the name of one module, for example 'cuda/12.4'")
        if self.clusters is not None and (not _MODULE.fullmatch(self.clusters) or self.clusters == "all"):
            raise ValueError(
                f"clusters = {self.clusters!r} must name one cluster: job ids are unique only in a cluster"
            )
        if self.wrap is not None:
            try:
                words = list(shlex.shlex(self.wrap, posix=True, punctuation_chars=True))
            except ValueError as error:
                raise ValueError(f"wrap = {self.wrap!r}: {error}") from None
            if not words or any(set(word) <= set("();<>|&") for word in words):
                raise ValueError(
                    f"wrap = {self.wrap!r} must be one command that the command of Python is appended to, "
                    "for example 'apptainer exec --nv image.sif'"
                )

    def _gpu_requests(self) -> list[tuple[str, int | str]]:
        """Return (key, value) of every key and option that requests GPUs."""
        found = [(name, getattr(self, name)) for name in ("gpus", "gpus_per_task")]
        found = [(name, value) for name, value in found if gpu_count(value)]
        options = {name: value for name, value in self.sbatch.items() if name == "gres" or name.startswith("tres")}
        return found + [(f"sbatch.{name}", str(value)) for name, value in options.items() if gres_request(value)]

    def _texts(self) -> list[tuple[str, str]]:
        """Return (key, value) of every text that is copied into the script."""
        names = ("partition", "account", "qos", "constraint", "clusters", "wrap", "python", "data", "stage")
        texts = [(name, text) for name in names if isinstance(text := getattr(self, name), str)]
        texts += [("setup", line) for line in self.setup]
        texts += [(f"env.{name}", value) for name, value in self.env.items() if isinstance(value, str)]
        return texts + [(f"sbatch.{name}", value) for name, value in self.sbatch.items() if isinstance(value, str)]

    @property
    def requested_gpus(self) -> str:
        """The GPUs of a job, however they are requested: a number or TYPE:NUMBER."""
        for name, value in self._gpu_requests():
            return str(gres_request(value) if name.startswith("sbatch.") else value)
        return "0"

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
        return max(1, gpu_count(self.requested_gpus)) * self.side_by_side

    @property
    def worker_device(self) -> str:
        """The device of the workers: cuda or cpu."""
        return self.device or ("cuda" if gpu_count(self.requested_gpus) else "cpu")


def load_profile(path: str | Path) -> Profile:
    """Read a profile. Raises RequestError in one line with the file, the key and the nearest valid key."""
    return convert(read_toml(path), Profile, str(path))
