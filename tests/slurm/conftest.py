"""A real Slurm cluster of two nodes on this machine, and a study of 24 runs with known records."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from records import result
from slurm_study import Results, Study, call

ROOT = Path(__file__).parents[2]
HOOKS = Path(__file__).parent / "hooks"
NEEDED = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "munged", "mariadbd", "my_print_defaults")


@dataclass
class Cluster:
    """The cluster that slurm/test_cluster.sh keeps in `folder`. Slurm commands of this process use it."""

    folder: Path

    def script(self, *words: str) -> str:
        done = call(str(ROOT / "slurm/test_cluster.sh"), *words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def up(self) -> None:
        self.script("up")

    def crash(self, node: str) -> None:
        """Stop a node without warning, as a power cut does."""
        self.script("crash", node)

    def kill(self, daemon: str) -> None:
        """Kill one daemon: slurmctld, slurmd-n1, ..."""
        os.kill(int((self.folder / "run" / f"{daemon}.pid").read_text()), signal.SIGKILL)
        (self.folder / "run" / f"{daemon}.pid").unlink()


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Results]]:
    """Return the results of the study by run id, from a local call that runs while the cluster starts."""
    folder = tmp_path_factory.mktemp("local")
    study = Study(folder, dict)
    local = subprocess.Popen(
        [sys.executable, "-m", "pbt_bench.cli", "run", "grid.toml", "--workers", "2"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip

    def results() -> Results:
        said, _ = local.communicate(timeout=120)
        assert local.returncode == 0, said
        return {record.run_id: result(record) for record in study.store.records()}

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
        "TESTCLUSTER_GPU_TYPES": "a100,a100_1g.5gb",
        "TESTCLUSTER_EXTRA": r"\n".join(
            [
                *("SlurmdTimeout=8", "SlurmctldTimeout=8", "MessageTimeout=5", "KillWait=5", "BatchStartTimeout=30"),
                "AccountingStorageEnforce=limits,qos",
                "PartitionName=billed Nodes=ALL MaxTime=INFINITE TRESBillingWeights=CPU=1.0,Mem=0.5G,GRES/gpu=4.0",
            ]
        ),
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
    """Return the first of a dozen consecutive free ports."""
    for base in range(26800, 30000, 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", base)) != 0 and probe.connect_ex(("127.0.0.1", base + 10)) != 0:
                return base
    raise AssertionError("no free ports")


@pytest.fixture
def slurm(cluster: Cluster) -> Callable[..., str]:
    """Call a Slurm command and return its output."""

    def asked(*words: str) -> str:
        done = call(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return asked


@pytest.fixture
def study(cluster: Cluster, tmp_path: Path, known: Callable[[], Results]) -> Iterator[Study]:
    made = Study(tmp_path, known)
    yield made
    cluster.up()
    made.end()
