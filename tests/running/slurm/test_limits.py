"""Tests of limits of a user, and of the cost of jobs, from the answers of Slurm's commands."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path

import pytest

from pbt_bench.running.slurm.cost import Rates, job_rates
from pbt_bench.running.slurm.limits import Limit, submit_limit
from pbt_bench.running.slurm.profile import Profile

Fake = Callable[[str, str], Path]
CONFIG = "AccountingStorageEnforce = associations,limits,qos\\nClusterName = lab"
PARTITIONS = (
    "PartitionName=cpu Default=YES QoS=N/A TRES=cpu=4\\n"
    "PartitionName=gpu Default=NO QoS=part_qos TRESBillingWeights=CPU=1.0,Mem=0.25G,GRES/gpu=2.0,GRES/gpu:a100=4"
)


def slurm(
    fake: Fake, config: str = CONFIG, user: str = "chem|chem||10|", qos: str = "", jobs: str = "", weights: str = ""
) -> None:
    """Replace the commands; `qos` is a shell pattern of the name and its MaxSubmitPU."""
    partition = "case \"$*\" in *gpu*) printf '%b\\n' '{}' | tail -n 1;; *) printf '%b\\n' '{}' ;; esac".replace(
        "{}", PARTITIONS
    )
    fake(
        "scontrol",
        f'#!/bin/sh\ncase "$*" in *partition*) {partition};; *) printf "%b\\n" "{config}\\n{weights}" ;; esac\n',
    )
    fake(
        "sacctmgr",
        f'#!/bin/sh\ncase "$*" in *" user "*) printf "%b\\n" "{user}" ;; {qos or "none) ;;"} *) echo ;; esac\n',
    )
    fake("squeue", f'#!/bin/sh\nprintf "%b" "{jobs}"\n')


def test_the_account_of_the_user_limits_the_jobs(fake: Fake) -> None:
    slurm(fake, jobs="chem|normal|cpu\\nchem|normal|gpu\\nother|normal|cpu\\n")
    assert submit_limit(Profile()) == Limit("MaxSubmitJobs of the account chem", 10, 2)
    slurm(fake, user="chem|chem||10|\\nchem|bio||4|\\nchem|bio|gpu|3|\\n", jobs="bio|normal|gpu\\n" * 9)
    assert submit_limit(Profile(account="bio", partition="cpu")) == Limit("MaxSubmitJobs of the account bio", 4, 9)
    limit = submit_limit(Profile(account="bio", partition="gpu"))
    assert limit is not None
    assert (limit.most, limit.free) == (3, 0)


def test_a_qos_comes_before_the_account_and_that_of_the_partition_first(fake: Fake) -> None:
    qos = '*"qos long"*) echo 7 ;; *part_qos*) echo 5 ;; *normal*) echo 6 ;;'
    slurm(fake, qos=qos, jobs="chem|long|cpu\\nchem|normal|gpu\\n")
    name = "MaxSubmitJobsPerUser of the QOS"
    assert submit_limit(Profile(qos="long")) == Limit(f"{name} long", 7, 1)
    assert submit_limit(Profile()) == Limit(f"{name} normal", 6, 1)
    assert submit_limit(Profile(qos="long", partition="gpu,cpu")) == Limit(f"{name} part_qos", 5, 1)
    slurm(fake, user="chem|chem||10|long", qos=qos)
    assert submit_limit(Profile()) == Limit(f"{name} long", 7, 0), "the default QOS of the user"


def test_what_slurm_does_not_tell_or_enforce_is_no_limit(fake: Fake) -> None:
    slurm(fake, config="AccountingStorageEnforce = none\\nClusterName = lab")
    assert submit_limit(Profile()) is None
    slurm(fake, user="chem|chem|||")
    assert submit_limit(Profile()) is None
    slurm(fake)
    fake("sacctmgr", "#!/bin/sh\necho 'slurmdbd is down' >&2\nexit 1\n")
    assert submit_limit(Profile()) is None


def test_the_limits_of_another_cluster_are_asked_for(fake: Fake) -> None:
    slurm(fake)
    folder = fake("squeue", '#!/bin/sh\necho "$*" > {folder}/asked\n')
    assert submit_limit(Profile(clusters="lab")) == Limit("MaxSubmitJobs of the account chem", 10, 0)
    assert (folder / "asked").read_text() == f"--clusters lab -r -h -u {getpass.getuser()} -o %a|%q|%P\n"


@pytest.mark.parametrize(
    ("profile", "tres"),
    [
        (Profile(cpus=4), 4),  # no weights: the cores
        (Profile(partition="gpu", cpus=4, memory="8G"), 6),
        (Profile(partition="gpu", cpus=4, memory="4096", gpus=2), 9),
        (Profile(partition="gpu", cpus=1, memory="1T", gpus="a100:1"), 1 + 256 + 2 + 4),
    ],
)
def test_tres_are_billed_by_the_weights_of_the_partition(fake: Fake, profile: Profile, tres: float) -> None:
    slurm(fake)
    rates = job_rates(profile)
    assert rates.tres == pytest.approx(tres)
    assert not rates.partial


def test_the_most_expensive_resource_alone_is_billed_if_the_cluster_says_so(fake: Fake) -> None:
    slurm(fake, weights="PriorityFlags = MAX_TRES")
    assert job_rates(Profile(partition="gpu", cpus=3, memory="8G", gpus=1)).tres == 3


def test_costs_in_words(fake: Fake) -> None:
    slurm(fake)
    rates = job_rates(Profile(partition="gpu", gpus=1, cpus=2, side_by_side=4, runs_per_job=2))
    assert rates == Rates(runs=2, gpus=1, tres=4, partial=True)
    assert rates.text(7200) == "GPU hours: about 1, TRES hours: at least 4", "the memory is unknown, and billed"
    fake("scontrol", "#!/bin/sh\nexit 1\n")
    assert job_rates(Profile(cpus=8)).text(5400) == "job hours: about 1.5"
