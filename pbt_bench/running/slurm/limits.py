"""The limit of a cluster on the pending and running jobs of one user (MaxSubmitJobs)."""

from __future__ import annotations

import getpass
import re
from typing import NamedTuple

from pbt_bench.running.slurm.command import SlurmError, call
from pbt_bench.running.slurm.profile import Profile


class Limit(NamedTuple):
    """A limit on pending and running jobs. Slurm counts every array element as a job."""

    name: str
    most: int
    used: int

    @property
    def free(self) -> int:
        """Number of jobs that may still be submitted."""
        return max(0, self.most - self.used)


def submit_limit(profile: Profile) -> Limit | None:
    """Return the limit that applies to the jobs of `profile`, or None if there is none or Slurm does not tell it.

    As in Slurm, a limit of the QOS of the partition comes before that of the job's QOS, and that before the limit of
    the user in the account. Limits of groups of users are left to sbatch.
    """
    try:
        return _limit(profile, getpass.getuser())
    except (SlurmError, KeyError, OSError):  # without accounting, or a user without a name
        return None


def partition_fields(profile: Profile) -> dict[str, str]:
    """Return the fields of the partition of the jobs, the first of several. Raises SlurmError."""
    name = profile.partition.split(",")[0] if profile.partition else None
    text = call("scontrol", "-o", "show", "partition", *([name] if name else []), clusters=profile.clusters)
    found = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in text.splitlines()]
    chosen = [fields for fields in found if fields.get("PartitionName") == name or fields.get("Default") == "YES"]
    return chosen[0] if chosen else {}


def _limit(profile: Profile, user: str) -> Limit | None:
    config = call("scontrol", "show", "config", clusters=profile.clusters)
    enforced = re.search(r"^AccountingStorageEnforce *= *(.*)", config, re.MULTILINE)
    cluster = re.search(r"^ClusterName *= *(\S+)", config, re.MULTILINE)
    if enforced is None or "limits" not in enforced[1] or cluster is None:
        return None
    known = ("sacctmgr", "-n", "-P", "show")
    columns = "format=DefaultAccount,Account,Partition,MaxSubmit,DefaultQOS"
    rows = call(*known, "user", user, "withassoc", f"cluster={cluster[1]}", columns).splitlines()
    account, most, default_qos = _association([row.split("|") for row in rows], profile)
    partition = partition_fields(profile)
    lines = call("squeue", "-r", "-h", "-u", user, "-o", "%a|%q|%P", clusters=profile.clusters).splitlines()
    jobs = [line.split("|") for line in lines if line.count("|") == 2]
    qos = profile.qos or default_qos or "normal"
    of_partition = partition.get("QoS", "N/A")
    for name, used in (
        (of_partition, sum(job[2] == partition.get("PartitionName") for job in jobs)),
        (qos, sum(job[1] == qos for job in jobs)),
    ):
        if name != "N/A":
            text = call(*known, "qos", name, "format=MaxSubmitPU").strip()
            if text.isdigit():
                return Limit(f"MaxSubmitJobsPerUser of the QOS {name}", int(text), used)
    if not most.isdigit():
        return None
    return Limit(f"MaxSubmitJobs of the account {account}", int(most), sum(job[0] == account for job in jobs))


def _association(rows: list[list[str]], profile: Profile) -> tuple[str, str, str]:
    """Return account, MaxSubmitJobs and default QOS of the user's association, preferring that of the partition."""
    found = ("", "", "")
    for default, account, partition, most, qos in (row for row in rows if len(row) == 5):
        wanted = account == (profile.account or default) and partition in ("", profile.partition)
        if wanted and (partition or not found[0]):
            found = (account, most, qos)
    return found
