"""The cost of jobs in GPU hours and in TRES hours, the unit in which Slurm charges an account."""

from __future__ import annotations

import re

import msgspec

from pbt_bench.running.slurm.command import SlurmError, call
from pbt_bench.running.slurm.gpus import gpu_count, gpu_type
from pbt_bench.running.slurm.limits import partition_fields
from pbt_bench.running.slurm.profile import Profile

_MIB = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """The resources that a job takes, and how many runs it executes at a time."""

    runs: int
    gpus: int = 0
    tres: float | None = None  # charged per hour of a job; None: unknown
    partial: bool = False  # the memory, which is charged too, is not known

    def hours(self, seconds: float) -> dict[str, float]:
        """Return the hours by unit of runs that take `seconds` one after another."""
        jobs = seconds / 3600 / self.runs
        found = {"GPU hours": jobs * self.gpus} if self.gpus else {"job hours": jobs}
        return found | ({} if self.tres is None else {"TRES hours": jobs * self.tres})

    def text(self, seconds: float) -> str:
        """Return the hours in words, for example `GPU hours: about 4.5, TRES hours: about 18`."""
        found = self.hours(seconds).items()
        about = {unit: "at least" if self.partial and unit == "TRES hours" else "about" for unit, _ in found}
        return ", ".join(f"{unit}: {about[unit]} {value:.3g}" for unit, value in found)


def job_rates(profile: Profile) -> Rates:
    """Return the rates of the jobs of `profile`; TRES by the TRESBillingWeights of the partition, if Slurm answers."""
    gpus = gpu_count(profile.requested_gpus)
    rates = Rates(runs=min(profile.workers, profile.runs_per_job), gpus=gpus)
    try:
        weights = _weights(partition_fields(profile).get("TRESBillingWeights", ""))
        largest = "MAX_TRES" in call("scontrol", "show", "config", clusters=profile.clusters)
    except SlurmError:
        return rates
    amounts = {"cpu": float(profile.cpus), "node": 1.0, "gres/gpu": float(gpus)}
    if kind := gpu_type(profile.requested_gpus):
        amounts[f"gres/gpu:{kind.lower()}"] = float(gpus)
    memory = str(profile.memory or 0)
    if memory != "0":
        amounts["mem"] = float(memory.rstrip("KMGT")) * _MIB.get(memory[-1], 1.0)
    if not weights:
        weights = {"cpu": 1.0}  # Slurm's default
    charged = [weight * amounts.get(name, 0.0) for name, weight in weights.items()]
    total = max(charged) if largest else sum(charged)
    return msgspec.structs.replace(rates, tres=total, partial="mem" in weights and "mem" not in amounts)


def _weights(text: str) -> dict[str, float]:
    """Read TRESBillingWeights, `CPU=1.0,Mem=0.25G,GRES/gpu:a100=2`; memory per MiB, as in Slurm without a unit."""
    found = re.findall(r"([\w/:.-]+)=([\d.]+)([KMGT]?)", text)
    return {name.lower(): float(weight) / (_MIB[unit] if unit else 1.0) for name, weight, unit in found}
