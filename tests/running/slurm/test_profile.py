"""Tests that a profile gives exactly its sbatch options, or a one-line error."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import msgspec
import pytest

from pbt_bench.errors import RequestError
from pbt_bench.running.slurm.profile import Profile, load_profile
from pbt_bench.running.slurm.submit import script

ROOT = Path(__file__).parents[3]
HERE = Path("/s/study/slurm/now")


@pytest.mark.parametrize(
    ("time", "minutes"),
    [(90, 90), ("90", 90), ("0:30", 1), ("1:30:00", 90), ("1-0", 1440), ("1-1:30", 1530), ("2-00:00:01", 2881)],
)
def test_time_is_read_as_slurm_reads_it(time: str | int, minutes: int) -> None:
    assert Profile(time=time, signal_delay=10).minutes == minutes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('partion = "gpu"', "unknown key 'partion'; did you mean 'partition'? (valid: account, array_parallelism"),
        ('gpus = "two"', "gpus = 'two' must be a number or TYPE:NUMBER, for example 2 or 'a100:2'"),
        ('gpus = "a100"', "gpus = 'a100' must be a number or TYPE:NUMBER"),
        ("gpus = -1", "gpus = -1 must be a number or TYPE:NUMBER"),
        ('gpus_per_task = "a100:x"', "gpus_per_task = 'a100:x' must be a number or TYPE:NUMBER"),
        ('gpus = "a100:1"\ngpus_per_task = 1', "gpus = 'a100:1' and gpus_per_task = 1 both request GPUs: keep one"),
        ('gpus = 1\nsbatch = { gres = "gpu:1" }', "gpus = 1 and sbatch.gres = 'gpu:1' both request GPUs: keep one"),
        ('sbatch = { gres = "gpu:1", tres-per-task = "gres/gpu:1" }', "sbatch.gres = 'gpu:1' and sbatch.tres-per-task"),
        ('sbatch = { gpus = "a100:1" }', "sbatch.gpus is set by pbt-bench or by another key of the profile: gpus"),
        ("sbatch = { gpus-per-task = 1 }", "by another key of the profile: gpus_per_task"),
        ("sbatch = { mem = 0 }", "by another key of the profile: memory"),
        (
            'memory = "4G"\nsbatch = { mem-per-cpu = "4G" }',
            "memory = '4G' and sbatch.mem-per-cpu = '4G': sbatch takes one",
        ),
        ('signal_delay = "120s"', "signal_delay = '120s' must be a whole number, not a text"),
        ('data = "$(pwd)/data"', "data = '$(pwd)/data': only $NAME and ${NAME} are expanded"),
        ('stage = "`pwd`"', "stage = '`pwd`': only $NAME and ${NAME} are expanded"),
        ('env = { X = "$(id)" }', "env.X = '$(id)': only $NAME and ${NAME} are expanded"),
        ('env = { "A B" = "1" }', "env: 'A B' must be the name of an environment variable"),
        ('modules = ["cuda; rm x"]', "modules: 'cuda; rm x' must be the name of one module"),
        ('clusters = "a,b"', "clusters = 'a,b' must name one cluster"),
        ('clusters = "all"', "clusters = 'all' must name one cluster"),
        ('wrap = "srun \'x"', 'wrap = "srun \'x": No closing quotation'),
        ('wrap = "cd /x && apptainer exec y.sif"', "must be one command that the command of Python is appended to"),
        ('wrap = ""', "wrap = '' must be one command"),
        ("runs_per_job = 0", "runs_per_job = 0 must be at least 1"),
        ("checkpoint_minutes = nan", "checkpoint_minutes = nan must be at least 0.01"),
        ("checkpoint_minutes = inf", "checkpoint_minutes = inf must be at least 0.01"),
        ('memory = "lots"', "memory = 'lots' must be a number and K, M, G or T, like '16G', or '0' for a whole node"),
        ('time = "soon"', "time = 'soon' must be minutes, 'HH:MM:SS' or 'D-HH:MM:SS'"),
        ("time = 1", "signal_delay = 120 seconds must be below time = 1"),
        ('device = "tpu"', "device = 'tpu' must be 'cpu' or 'cuda'"),
        ('sbatch = { array = "1-4" }', "sbatch.array is set by pbt-bench or by another key of the profile"),
        ("gpus =", "not a TOML file"),
        (r'partition = "a\n#SBATCH --uid=0"', r"partition = 'a\n#SBATCH --uid=0': line breaks and control characters"),
        (r'account = "a\rb"', r"account = 'a\rb': line breaks and control characters"),
        (r'constraint = "a\u2028b"', "constraint = 'a\\u2028b': line breaks and control characters"),
        (r'setup = ["true\n#SBATCH --hold"]', "setup = 'true\\n#SBATCH --hold': line breaks"),
        (
            'setup = ["  #SBATCH --hold"]',
            "setup: '  #SBATCH --hold' is an option of sbatch; options belong below [sbatch]",
        ),
        (r'sbatch = { exclude = "n1\n#SBATCH --hold" }', "sbatch.exclude = 'n1\\n#SBATCH --hold': line breaks"),
        (r'sbatch = { "hold\n#SBATCH --uid" = 0 }', "sbatch: 'hold\\n#SBATCH --uid' must be the long name"),
        ('sbatch = { "hold --uid" = 0 }', "sbatch: 'hold --uid' must be the long name of an option"),
        ('sbatch = { "--hold" = true }', "sbatch: '--hold' must be the long name of an option"),
        ('sbatch = { arr = "1-4" }', "sbatch.arr is set by pbt-bench or by another key of the profile"),
        ("sbatch = { ntasks = 4 }", "sbatch.ntasks is set by pbt-bench or by another key of the profile"),
        ("sbatch = { wrap = true }", "sbatch.wrap is set by pbt-bench or by another key of the profile"),
        ("sbatch = { exclusive = false }", "sbatch.exclusive = false: leave the key out"),
    ],
)
def test_a_bad_profile_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        load_profile(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "slurm").glob("*.toml")), ids=lambda path: path.stem)
def test_the_profiles_here_are_valid(path: Path) -> None:
    assert load_profile(path).minutes >= 60


def test_every_key_reaches_sbatch() -> None:
    profile = Profile(
        partition="gpu", account="mine", qos="low", constraint="a100", gpus=2, cpus=6, memory="24G", time="1-0",
        array_parallelism=10, setup=("module load cuda", "export X=1"), signal_delay=90,
        sbatch={"exclude": "n17", "exclusive": True},
    )  # fmt: skip
    lines = script(HERE, profile, arrays=2, array=1, elements=7).splitlines()
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert options >= {
        "partition=gpu", "account=mine", "qos=low", "constraint=a100", "gpus-per-node=2", "cpus-per-task=6",
        "mem=24G", "time=1440", "array=0-6%5", "signal=USR2@90", "exclude=n17", "exclusive", "requeue",
        "job-name=pbt-study.now.1", "open-mode=append",
    }  # fmt: skip
    assert not any(option.startswith(("comment", "wckey")) for option in options), "they are the user's"
    command = next(line for line in lines if line.startswith("srun"))
    assert lines.index("module load cuda") < lines.index("export X=1") < lines.index(command)
    assert "--cpus-per-task 6" in command
    assert command.endswith("-u -m submitit.core._submit /s/study/slurm/now")


@pytest.mark.parametrize(
    ("text", "option", "count"),
    [
        ("gpus = 2", "gpus-per-node=2", 2),
        ('gpus = "3"', "gpus-per-node=3", 3),
        ('gpus = "a100:1"', "gpus-per-node=a100:1", 1),
        ('gpus = "a100_3g.20gb:1"', "gpus-per-node=a100_3g.20gb:1", 1),
        ('gpus = "1g.10gb+me:2"', "gpus-per-node=1g.10gb+me:2", 2),
        ('gpus_per_task = "a100:2"', "gpus-per-task=a100:2", 2),
        ('sbatch = { gres = "gpu:a100:1" }', "gres=gpu:a100:1", 1),
        ('sbatch = { gres = "nvme:1,gpu:2" }', "gres=nvme:1,gpu:2", 2),
        ('sbatch = { gres = "gpu" }', "gres=gpu", 1),
        ('sbatch = { gres = "gpu:a100:1,gpu:h100:1" }', "gres=gpu:a100:1,gpu:h100:1", 2),
        ('sbatch = { gres = "gpu:a100:2(S:0)" }', "gres='gpu:a100:2(S:0)'", 2),
        ('sbatch = { gres = "shard:4" }', "gres=shard:4", 1),
        ('sbatch = { tres-per-task = "cpu=4,gres/gpu:a100=2" }', "tres-per-task=cpu=4,gres/gpu:a100=2", 2),
    ],
)
def test_gpus_are_requested_once_and_used(tmp_path: Path, text: str, option: str, count: int) -> None:
    (tmp_path / "mine.toml").write_text(text)
    profile = load_profile(tmp_path / "mine.toml")
    assert (profile.worker_device, profile.workers) == ("cuda", count)
    lines = script(HERE, profile, arrays=1, array=0, elements=1).splitlines()
    found = [line.removeprefix("#SBATCH --") for line in lines if re.match("#SBATCH --(gpu|gres|tres)", line)]
    assert found == [option]
    assert ("#SBATCH --ntasks=1" in lines) == ("gpus_per_task" in text), "Slurm 23.11 refuses one without the other"


@pytest.mark.parametrize("text", ['sbatch = { gres = "nvme:1" }', 'sbatch = { gres-flags = "disable-binding" }', ""])
def test_other_resources_leave_the_job_on_the_cpu(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    assert load_profile(tmp_path / "mine.toml").worker_device == "cpu"


def test_comment_wckey_cluster_and_a_whole_node_are_passed_on() -> None:
    profile = Profile(clusters="big", memory="0", sbatch={"comment": "my own", "wckey": "thesis"})
    lines = script(HERE, profile, arrays=1, array=0, elements=1).splitlines()
    assert {"#SBATCH --comment='my own'", "#SBATCH --wckey=thesis", "#SBATCH --clusters=big", "#SBATCH --mem=0"} <= {
        *lines
    }


def test_the_command_runs_in_a_container_after_modules_variables_and_setup(tmp_path: Path) -> None:
    profile = Profile(
        modules=("cuda/12.4", "gcc"), env={"CACHE": "$WORK/it's \"x\"", "N": 3}, setup=("echo ready",),
        wrap="sh -c 'echo wrapped; exec \"$@\"' wrap", python="/opt/py thon",
    )  # fmt: skip
    text = script(HERE, profile, arrays=1, array=0, elements=1)
    for name, code in {
        "module": 'echo "module $@"', "srun": 'while [ "$1" != sh ]; do shift; done; "$@"',
        "py thon": 'echo "python $@; $CACHE; $N"',
    }.items():  # fmt: skip
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / name).chmod(0o755)
    text = text.replace("/opt", str(tmp_path))
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "WORK": "/w/$x"}
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, env=env)
    assert done.stdout.splitlines() == [
        "module load cuda/12.4 gcc", "ready", "wrapped",
        "python -u -m submitit.core._submit /s/study/slurm/now; /w/$x/it's \"x\"; 3",
    ]  # fmt: skip
    (tmp_path / "module").write_text("#!/bin/sh\nexit 1\n")
    assert subprocess.run(["bash", "-c", text], capture_output=True, env=env).returncode == 1, "it stops there"


def test_what_is_not_said_is_left_to_the_cluster() -> None:
    text = script(HERE, Profile(), arrays=1, array=0, elements=1)
    for option in ("partition", "account", "qos", "constraint", "gpus", "mem", "array"):
        assert f"--{option}" not in text


@pytest.mark.parametrize(
    "text", ["a b", "a;touch x", "$(touch x)", "`x`", "a' --uid=0 '", '"', "#SBATCH --hold", "a\\\\"]
)
def test_odd_characters_stay_inside_their_one_option(text: str) -> None:
    plain = script(HERE, Profile(partition="p", sbatch={"exclude": "n"}), arrays=1, array=0, elements=2)
    odd = script(HERE, Profile(partition=text, sbatch={"exclude": text}), arrays=1, array=0, elements=2)
    assert [line.split("=")[0] for line in odd.splitlines()] == [line.split("=")[0] for line in plain.splitlines()]
    values = [
        shlex.split(line.split("=", 1)[1]) for line in odd.splitlines() if "--partition" in line or "exclude" in line
    ]
    assert values == [[text], [text]]


def test_the_documentation_lists_every_key_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", (ROOT / "docs/slurm.md").read_text(), re.MULTILINE)
    keys = {field.name: field.default for field in msgspec.structs.fields(Profile)} | {"sbatch": {}, "env": {}}
    shown = {name: "none" if value is None else json.dumps(value) for name, value in keys.items()}
    assert dict(rows) == shown
