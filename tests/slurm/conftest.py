"""A real Slurm cluster of two nodes on this machine, and a study of 24 runs whose records are known."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from records import result

from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import load_grid

ROOT = Path(__file__).parents[2]
HOOKS = Path(__file__).parent / "hooks"
GRID = """
name = "cluster"
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
STUDY_RUNS = 24
LONG = "digits vgg8 dense seed 0"  # the run that TROUBLE_LONG makes long
PROFILE: dict[str, Any] = {
    "partition": "main", "gpus": 1, "device": "cpu", "cpus": 1, "memory": "2G", "time": 60, "array_parallelism": 4,
    "runs_per_job": 6, "signal_delay": 30,
}  # fmt: skip
NEEDED = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "munged", "mariadbd", "my_print_defaults")
STATES = ("done", "collapsed", "diverged", "failed", "running", "pending", "lost", "missing")


def call(*words: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=seconds)


@dataclass
class Cluster:
    """The cluster that slurm/test_cluster.sh keeps in `folder`; Slurm's commands of this process talk to it."""

    folder: Path

    def script(self, *words: str) -> str:
        done = call(str(ROOT / "slurm/test_cluster.sh"), *words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def up(self) -> None:
        self.script("up")

    def crash(self, node: str) -> None:
        """A power cut."""
        self.script("crash", node)

    def kill(self, daemon: str) -> None:
        """One daemon alone dies: slurmctld, slurmd-n1, ..."""
        os.kill(int((self.folder / "run" / f"{daemon}.pid").read_text()), signal.SIGKILL)
        (self.folder / "run" / f"{daemon}.pid").unlink()


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], dict[str, dict[str, Any]]]]:
    """The results of a local run of the study, by run id; it runs while the cluster starts."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "cluster.toml").write_text(GRID)
    local = subprocess.Popen(
        [sys.executable, "-m", "pbt_bench.cli", "run", "cluster.toml", "--workers", "2"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip

    def results() -> dict[str, dict[str, Any]]:
        said, _ = local.communicate(timeout=120)
        assert local.returncode == 0, said
        return {record.run_id: result(record) for record in Store(folder / "results/cluster").records()}

    yield results
    local.kill()
    local.communicate()


@pytest.fixture(scope="session")
def cluster(known: object) -> Iterator[Cluster]:
    missing = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if missing:
        pytest.skip(f"no Slurm here: {', '.join(missing)} missing (slurm/test_cluster.sh install)")
    if os.geteuid() != 0:
        pytest.skip("only root can start a Slurm cluster")
    folder = Path(tempfile.mkdtemp(prefix="pbt-slurm-", dir="/tmp"))  # unix sockets need a short path
    settings = {
        "TESTCLUSTER_DIR": str(folder),
        "TESTCLUSTER_PORT": str(_free_ports()),
        "TESTCLUSTER_INSTALL": "0",
        "TESTCLUSTER_CGROUP": str(int(os.access("/sys/fs/cgroup/memory", os.W_OK))),
        "TESTCLUSTER_EXTRA": r"SlurmdTimeout=8\nSlurmctldTimeout=8\nMessageTimeout=5\nKillWait=5\nBatchStartTimeout=30",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "TESTCLUSTER_"))]:
            patch.delenv(name)
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.setenv("SLURM_CONF", f"{folder}/slurm.conf")
        patch.setenv("PBT_BENCH_STALE_SECONDS", "6")
        patch.setenv("PBT_BENCH_DATASETS", str(HOOKS))
        made = Cluster(folder)
        try:
            made.up()
            yield made
        finally:
            made.script("purge")
            shutil.rmtree(folder, ignore_errors=True)


def _free_ports() -> int:
    """The first of a dozen ports that nothing listens on."""
    for base in range(26800, 30000, 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", base)) != 0 and probe.connect_ex(("127.0.0.1", base + 10)) != 0:
                return base
    raise AssertionError("no free ports")


@dataclass
class Study:
    """The 24 runs in a folder of their own; every look at their status checks that it tells the truth."""

    folder: Path
    known: Callable[[], dict[str, dict[str, Any]]]
    born: dict[str, int] = field(default_factory=dict)  # run id -> inode of its record: another if done again

    @property
    def store(self) -> Store:
        return Store(self.folder / "results/cluster")

    def verb(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "pbt_bench.cli", name, "cluster.toml", *words]
        return subprocess.run(line, cwd=self.folder, capture_output=True, text=True, timeout=120)

    def profile(self, **changes: Any) -> str:
        """Write a profile: PROFILE with `changes`."""
        lines = [f"{key} = {json.dumps(value)}" for key, value in {**PROFILE, **changes}.items()]
        (self.folder / "here.toml").write_text("\n".join(lines))
        return "here.toml"

    def submit(self, *words: str, **changes: Any) -> str:
        done = self.verb("submit", "--cluster", self.profile(**changes), *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        """`status --json`, checked against the records before and after it."""
        before = self._look()
        done = self.verb("status", "--json")
        state: dict[str, Any] = json.loads(done.stdout)
        after = self._look()
        assert state["total"] == STUDY_RUNS == sum(state[name] for name in STATES)
        assert before <= state["done"] + state["failed"] <= after
        assert len(state["runs"]) == state["total"] - state["done"] - state["missing"]
        assert done.returncode == (1 if state["failed"] or state["lost"] else 0)
        return state

    def wait(self, until: Callable[[dict[str, Any]], object], seconds: float = 90, never: str = "lost failed") -> Any:
        """The first status that `until` likes; none before it may show a run in one of the states `never`."""
        end = time.monotonic() + seconds
        while True:
            state = self.status()
            assert not any(state[name] for name in never.split()), state["runs"]
            if until(state):
                return state
            assert time.monotonic() < end, state
            time.sleep(1.5)

    def complete(self, seconds: float = 90, never: str = "lost failed missing") -> list[RunRecord]:
        """Wait until all is done; every record is that of the local run, and no run ran to its end twice."""
        self.wait(lambda state: state["done"] == STUDY_RUNS, seconds, never)
        records = self.store.records()
        assert {record.run_id: result(record) for record in records} == self.known()
        assert self.endings() == dict.fromkeys(self.known(), 1)
        self.quiet()
        assert self.verb("submit", "--cluster", "here.toml").stdout == (
            f"cluster: {STUDY_RUNS} runs: 0 to submit, {STUDY_RUNS} with a record\n"
        )
        left = {path.parent.name for path in self.store.folder.glob("*/*")}
        assert left == {"runs", "masks", "logs", "slurm"}, "no checkpoint, no claim is left"
        return records

    def endings(self) -> Counter[str]:
        """How often the log of each run says that it ended."""
        logs = {path.stem: path.read_text() for path in (self.store.folder / "logs").glob("*.log")}
        return Counter({run: len(re.findall(r"^\S+ \S+ done$", text, re.MULTILINE)) for run, text in logs.items()})

    def quiet(self, seconds: float = 60) -> None:
        """Wait until Slurm has no job of anybody."""
        end = time.monotonic() + seconds
        while call("squeue", "-h").stdout:
            assert time.monotonic() < end, call("squeue").stdout
            time.sleep(0.3)

    def long_run(self, state: dict[str, Any]) -> dict[str, Any]:
        """What `state` says of the run that TROUBLE_LONG makes long."""
        (run,) = [run for run in state["runs"] if run["label"] == LONG]
        return run

    def sessions(self, records: list[RunRecord]) -> int:
        """How often that run was begun or continued."""
        (count,) = [record.environment["sessions"] for record in records if record.spec.label == LONG]
        return int(count)

    def node(self, job: str) -> str:
        """Where a job is."""
        return call("squeue", "-h", "-r", "-j", job, "-o", "%N").stdout.strip()

    def said(self, job: str) -> str:
        """What a job said outside its runs."""
        return "".join(path.read_text() for path in self.store.folder.glob(f"slurm/*/{job}_0_log.err"))

    def nodes(self) -> Counter[str]:
        """On which nodes accounting says that jobs of the last submission were."""
        *_, last = sorted((self.store.folder / "slurm").iterdir())
        job = (last / "jobs").read_text().split()[1]
        return Counter(call("sacct", "-nXP", "-o", "NodeList", "-j", job).stdout.split())

    def _look(self) -> int:
        records = list(self.store.runs.glob("*.json"))
        for path in records:
            if b'"status": "failed"' not in path.read_bytes():
                inode = path.stat().st_ino
                assert self.born.setdefault(path.stem, inode) == inode, f"{path.stem} was done twice"
        return len(records)


@pytest.fixture
def slurm(cluster: Cluster) -> Callable[..., str]:
    """Call a command of Slurm."""

    def asked(*words: str) -> str:
        done = call(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return asked


@pytest.fixture
def study(cluster: Cluster, tmp_path: Path, known: Callable[[], dict[str, dict[str, Any]]]) -> Iterator[Study]:
    (tmp_path / "cluster.toml").write_text(GRID)
    assert len(load_grid(tmp_path / "cluster.toml").runs()) == STUDY_RUNS
    made = Study(tmp_path, known)
    yield made
    call("scancel", "--name=pbt-cluster", "--full", "--signal=KILL")
    call("scancel", "--name=pbt-cluster")
    cluster.up()
    made.quiet()
