"""Calls of Slurm's commands, each with a time limit: nothing here may hang because a controller does."""

from __future__ import annotations

import re
import subprocess

from pbt_bench.errors import RequestError

_SECONDS = 60.0


class SlurmError(RequestError):
    """A command of Slurm is not there, failed, or did not answer."""


def call(*words: str) -> str:
    """What a command prints. Raises SlurmError, in one line, with what it said."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, errors="replace")
    except FileNotFoundError:
        raise SlurmError(f"{words[0]} is not on the PATH: is this a login node of a Slurm cluster?") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"Slurm did not answer {words[0]} within {_SECONDS:.0f} s") from None
    if done.returncode != 0:
        raise SlurmError(f"{words[0]}: {gist(done.stderr) or f'exit code {done.returncode}'}")
    return done.stdout


def gist(said: str) -> str:
    """The last two lines of what a command complained of, as one; they hold what and why."""
    lines = [re.sub(r"^\w+: (?:error|fatal): ", "", line.strip()) for line in said.splitlines() if line.strip()]
    return ": ".join(dict.fromkeys(lines[-2:]))
