"""Tests that a profile gives exactly its sbatch options, or a one-line error."""

from __future__ import annotations

import json
import re
import shlex
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
        ('gpus = "two"', "gpus = 'two' must be a whole number, not a text"),
        ("runs_per_job = 0", "runs_per_job = 0 must be at least 1"),
        ("checkpoint_minutes = nan", "checkpoint_minutes = nan must be at least 0.01"),
        ("checkpoint_minutes = inf", "checkpoint_minutes = inf must be at least 0.01"),
        ('memory = "lots"', "memory = 'lots' must be a number and K, M, G or T"),
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
    lines = script(HERE, "study", profile, arrays=2, array=1, elements=7).splitlines()
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert options >= {
        "partition=gpu", "account=mine", "qos=low", "constraint=a100", "gpus-per-node=2", "cpus-per-task=6",
        "mem=24G", "time=1440", "array=0-6%5", "signal=USR2@90", "exclude=n17", "exclusive", "requeue",
        "job-name=pbt-study", "comment='pbt-bench now 1'", "open-mode=append",
    }  # fmt: skip
    command = next(line for line in lines if line.startswith("srun"))
    assert lines.index("module load cuda") < lines.index("export X=1") < lines.index(command)
    assert "--cpus-per-task 6" in command
    assert command.endswith("-u -m submitit.core._submit /s/study/slurm/now")


def test_what_is_not_said_is_left_to_the_cluster() -> None:
    text = script(HERE, "study", Profile(), arrays=1, array=0, elements=1)
    for option in ("partition", "account", "qos", "constraint", "gpus", "mem", "array"):
        assert f"--{option}" not in text


@pytest.mark.parametrize(
    "text", ["a b", "a;touch x", "$(touch x)", "`x`", "a' --uid=0 '", '"', "#SBATCH --hold", "a\\\\"]
)
def test_odd_characters_stay_inside_their_one_option(text: str) -> None:
    plain = script(HERE, "study", Profile(partition="p", sbatch={"exclude": "n"}), arrays=1, array=0, elements=2)
    odd = script(HERE, "study", Profile(partition=text, sbatch={"exclude": text}), arrays=1, array=0, elements=2)
    assert [line.split("=")[0] for line in odd.splitlines()] == [line.split("=")[0] for line in plain.splitlines()]
    values = [
        shlex.split(line.split("=", 1)[1]) for line in odd.splitlines() if "--partition" in line or "exclude" in line
    ]
    assert values == [[text], [text]]


def test_the_documentation_lists_every_key_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", (ROOT / "docs/slurm.md").read_text(), re.MULTILINE)
    keys = {field.name: field.default for field in msgspec.structs.fields(Profile)} | {"sbatch": {}}
    shown = {name: "none" if value is None else json.dumps(value) for name, value in keys.items()}
    assert dict(rows) == shown
