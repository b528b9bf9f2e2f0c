"""A study of 24 runs on a real cluster, and the checks of its status during and after the runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from records import result

from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store

GRID = """
[grid]
dataset = ["digits"]
model = ["vgg8"]
method = ["random", "magnitude", "snip", "synflow", "fts"]
sparsity = [0.9]
seed = [0, 1, 2, 3]
[recipe]
epochs = 2
batch_size = 128
[scoring]
samples_per_class = 5
rounds = 5
"""
RUNS = 24
LONG = "digits vgg8 dense seed 0"  # the run that TROUBLE_LONG makes long: 18 steps of that number of seconds
PROFILE: dict[str, Any] = {
    "partition": "main", "gpus": 1, "device": "cpu", "cpus": 1, "memory": "2G", "time": 60, "array_parallelism": 2,
    "runs_per_job": 12, "signal_delay": 30,
}  # fmt: skip
STATES = ("done", "collapsed", "diverged", "failed", "running", "pending", "lost", "missing")
KEPT = {"runs", "masks", "logs", "slurm"}  # folders of a finished study that are not empty

Results = dict[str, dict[str, Any]]


def call(*words: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=seconds)


@dataclass
class Study:
    """The 24 runs in a separate folder. Every query of their status compares it with the records."""

    folder: Path
    known: Callable[[], Results]
    name: str = "cluster"
    born: dict[str, int] = field(
        default_factory=dict
    )  # run id -> inode of its record, which changes if the run is repeated

    def __post_init__(self) -> None:
        (self.folder / "grid.toml").write_text(f'name = "{self.name}"\n{GRID}')

    @property
    def store(self) -> Store:
        return Store(self.folder / "results" / self.name)

    def verb(self, name: str, *words: str, env: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "pbt_bench.cli", name, "grid.toml", *words]
        env = {**os.environ, **env}
        return subprocess.run(line, cwd=self.folder, capture_output=True, text=True, timeout=120, env=env)

    def profile(self, **changes: Any) -> str:
        """Write a profile: PROFILE with `changes`."""
        lines = [f"{key} = {json.dumps(value)}" for key, value in {**PROFILE, **changes}.items()]
        (self.folder / "here.toml").write_text("\n".join(lines))
        return "here.toml"

    def submit(self, *words: str, long: float = 0, greedy: int = 0, **changes: Any) -> str:
        """Submit with PROFILE and `changes`; `long` seconds per step of one run, `greedy` MiB for another."""
        trouble = {"TROUBLE_LONG": str(long), "TROUBLE_GREEDY": str(greedy)}
        done = self.verb("submit", "--cluster", self.profile(**changes), *words, env=trouble)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        """`status --json`, checked against the records before and after it."""
        before = self._look()
        done = self.verb("status", "--json")
        state: dict[str, Any] = json.loads(done.stdout)
        after = self._look()
        assert state["total"] == RUNS == sum(state[name] for name in STATES)
        assert before <= state["done"] + state["failed"] <= after
        assert len(state["runs"]) == state["total"] - state["done"] - state["missing"]
        assert done.returncode == (1 if state["failed"] or state["lost"] else 0)
        return state

    def wait(self, until: Callable[[dict[str, Any]], object], seconds: float = 180, never: str = "lost failed") -> Any:
        """Return the first status for which `until` is true. No earlier status may have a run in a state of `never`."""
        end = time.monotonic() + seconds
        while True:
            state = self.status()
            assert not any(state[name] for name in never.split()), state["runs"]
            if until(state):
                return state
            assert time.monotonic() < end, state
            time.sleep(1.5)

    def complete(self, seconds: float = 180, never: str = "lost failed missing") -> list[RunRecord]:
        """Wait until all runs are done. Check that every record is that of the local run and no run ended twice."""
        self.wait(lambda state: state["done"] == RUNS, seconds, never)
        records = self.store.records()
        assert {record.run_id: result(record) for record in records} == self.known()
        assert self.endings() == dict.fromkeys(self.known(), 1)
        assert self.verb("submit", "--cluster", "here.toml").stdout == (
            f"{self.name}: {RUNS} runs: 0 to submit, {RUNS} with a record\n"
        )
        end = time.monotonic() + 30
        while (left := {path.parent.name for path in self.store.folder.glob("*/*")}) != KEPT:
            assert time.monotonic() < end, f"checkpoints or claims are left: {left}"
            time.sleep(0.3)
        return records

    def endings(self) -> Counter[str]:
        """Return how often the log of each run reports its end."""
        logs = {path.stem: path.read_text() for path in (self.store.folder / "logs").glob("*.log")}
        return Counter({run: len(re.findall(r"^\S+ \S+ done$", text, re.MULTILINE)) for run, text in logs.items()})

    def quiet(self, seconds: float = 60) -> None:
        """Wait until Slurm has no job of this study."""
        end = time.monotonic() + seconds
        while left := self._jobs():
            assert time.monotonic() < end, left
            time.sleep(0.3)

    def long_run(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the entry of `state` for the run that TROUBLE_LONG makes long."""
        (run,) = [run for run in state["runs"] if run["label"] == LONG]
        return run

    def sessions(self, records: list[RunRecord]) -> int:
        """Return how often that run was started or continued."""
        (count,) = [record.environment["sessions"] for record in records if record.spec.label == LONG]
        return int(count)

    def node(self, job: str) -> str:
        """Return the node of a job."""
        return call("squeue", "-h", "-r", "-j", job, "-o", "%N").stdout.strip()

    def said(self, job: str) -> str:
        """Return the output of a job outside its runs."""
        return "".join(path.read_text() for path in self.store.folder.glob(f"slurm/*/{job}_0_log.err"))

    def nodes(self) -> Counter[str]:
        """Return the nodes of the jobs of the last submission, according to accounting."""
        *_, last = sorted((self.store.folder / "slurm").iterdir())
        job = (last / "jobs").read_text().split()[1]
        return Counter(call("sacct", "-nXP", "-o", "NodeList", "-j", job).stdout.split())

    def end(self) -> None:
        """Cancel all jobs of the study."""
        if jobs := self._jobs():
            call("scancel", "--full", "--signal=KILL", *jobs)
            call("scancel", *jobs)
        self.quiet()

    def _jobs(self) -> list[str]:
        """Return the ids of the jobs of this study and its probes in the queue."""
        names = {path.name for path in self.store.folder.glob("**/slurm/*") if path.is_dir()}
        lines = [line.split("|") for line in call("squeue", "-h", "-o", "%A|%j").stdout.splitlines()]
        return sorted({job for job, name in lines if name.split(".")[1:2] and name.split(".")[1] in names})

    def _look(self) -> int:
        records = list(self.store.runs.glob("*.json"))
        for path in records:
            if b'"status": "failed"' not in path.read_bytes():
                inode = path.stat().st_ino
                assert self.born.setdefault(path.stem, inode) == inode, f"{path.stem} was done twice"
        return len(records)
