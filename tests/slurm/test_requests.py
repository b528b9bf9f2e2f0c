"""Tests of the keys of a profile that reach Slurm and the nodes: GPUs, containers, variables, copies, limits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from slurm_study import Study

pytestmark = pytest.mark.long

GRID = """
[grid]
dataset = ["stored"]
model = ["vgg8"]
method = ["random", "snip"]
sparsity = [0.9]
seed = [0, 1]
[recipe]
epochs = 3
batch_size = 128
"""
PROFILE = """
partition = "billed"
clusters = "lab"
gpus = "a100:1"
device = "cpu"
memory = "2G"
time = 60
array_parallelism = 4
runs_per_job = 2
signal_delay = 30
data = "$HERE/data"
stage = "$HERE/disk/${SLURMD_NODENAME}"
env = { HERE = "FOLDER", MINE = "$HERE/mine" }
wrap = "FOLDER/wrap.sh"
[sbatch]
comment = "my own comment"
"""


@pytest.fixture
def small(study: Study) -> Study:
    """Return a study of 6 runs on a dataset in a file, with a profile that has most of the keys."""
    folder = study.folder
    (folder / "data").mkdir()
    np.savez(folder / "data/stored.npz", labels=np.zeros(1797))
    (folder / "wrap.sh").write_text(f'#!/bin/sh\necho "$SLURM_JOB_ID $MINE" >> {folder}/wrapped\nexec "$@"\n')
    (folder / "wrap.sh").chmod(0o755)
    (folder / "grid.toml").write_text(f'name = "{study.name}"\n{GRID}')
    (folder / "here.toml").write_text(PROFILE.replace("FOLDER", str(folder)))
    return study


def submit(study: Study, *words: str) -> str:
    done = study.verb("submit", "--cluster", "here.toml", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def finished(study: Study, *words: str) -> None:
    study.quiet(120)
    assert "0 to submit" in submit(study, *words)


def test_a_job_in_a_container_on_a_typed_gpu_reads_a_copy_of_the_data(small: Study, slurm: Callable[..., str]) -> None:
    assert "device cpu (GPUs per job: a100:1)" in submit(small, "--dry-run")
    assert "1 array element for 1 runs" in submit(small, "--probe")
    finished(small, "--probe")
    assert "(from 1 probe)" in submit(small, "--dry-run")
    state = json.loads(small.verb("status", "--json").stdout)
    assert state["tres_hours_left"] / state["gpu_hours_left"] == pytest.approx(1 + 2 * 0.5 + 4)

    assert "3 array elements for 6 runs" in submit(small)
    lines = slurm("squeue", "-h", "-o", "%k|%b|%j").splitlines()
    assert {line.split("|")[0] for line in lines} == {"my own comment"}
    assert all("gpu:a100:1" in line for line in lines)
    finished(small)
    state = json.loads(small.verb("status", "--json").stdout)
    assert state["done"] == state["total"] == 6
    *_, last = sorted((small.store.folder / "slurm").iterdir())
    job = (last / "jobs").read_text().split()[1]
    assert "billing=6,cpu=1,gres/gpu=1" in slurm("sacct", "-nXP", "-M", "lab", "-o", "AllocTRES", "-j", job)
    wrapped = (small.folder / "wrapped").read_text().splitlines()
    assert len(wrapped) == 4, "of the probe and three jobs"
    assert {line.split()[1] for line in wrapped} == {f"{small.folder}/mine"}
    copied = [line for path in small.store.folder.glob("**/slurm/*/*.err") for line in path.read_text().splitlines()]
    copied = [line for line in copied if line.startswith("copied")]
    assert len(copied) == len({*copied}) == len(list((small.folder / "disk").iterdir())), "once per node"


@pytest.mark.parametrize("request_", ['gpus = "a100_1g.5gb:1"', 'gpus_per_task = "a100:1"', "gpus = 2", "gres"])
def test_every_request_of_a_gpu_is_accepted_and_given_once(
    small: Study, slurm: Callable[..., str], request_: str
) -> None:
    text = (small.folder / "here.toml").read_text()
    own = 'memory = "0"\n' if request_ != "gres" else ""
    given = "" if request_ == "gres" else request_
    text = text.replace('gpus = "a100:1"', given).replace('memory = "2G"\n', own)
    text = text.replace("FOLDER/wrap.sh", "")
    if request_ == "gres":
        text += 'gres = "gpu:a100:1"\n'
    (small.folder / "here.toml").write_text(text)
    (small.folder / "wrap.sh").write_text('#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES" > $HERE/devices; true\n')
    submit(small, "--probe")
    small.quiet(60)
    devices = {'gpus = "a100_1g.5gb:1"': "1", "gpus = 2": "0,1"}.get(request_, "0")
    assert (small.folder / "devices").read_text().strip() == devices


@pytest.fixture
def limited(slurm: Callable[..., str]) -> Iterator[None]:
    slurm("sacctmgr", "-i", "modify", "qos", "normal", "set", "MaxSubmitJobsPerUser=2")
    yield
    slurm("sacctmgr", "-i", "modify", "qos", "normal", "set", "MaxSubmitJobsPerUser=-1")


def test_a_study_of_more_jobs_than_a_user_may_have_is_submitted_in_parts(limited: None, small: Study) -> None:
    held = (
        "MaxSubmitJobsPerUser of the QOS normal = 2, and 0 jobs of yours in the queue: 2 runs are held back; "
        "submit again when jobs have ended"
    )
    said = submit(small)
    assert held in said
    assert "2 array elements for 4 runs" in said
    assert "2 runs are held back" in submit(small)
    small.quiet(120)
    assert "2 array elements for 2 runs" in submit(small)
    finished(small)
    assert len(list(small.store.runs.glob("*.json"))) == 6
