"""Calls of Slurm's commands, each with a time limit: nothing here may hang because a controller does."""

from __future__ import annotations

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
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise SlurmError(f"{words[0]}: {said}")
    return done.stdout
