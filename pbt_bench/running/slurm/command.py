"""Call Slurm's commands, each with a time limit, because a controller may not answer."""

from __future__ import annotations

import re
import subprocess

from pbt_bench.errors import RequestError

_SECONDS = 60.0  # time limit of one command


class SlurmError(RequestError):
    """Raised when a command of Slurm is missing, fails, or does not answer."""


def call(command: str, *words: str, clusters: str | None = None) -> str:
    """Run a command, for another cluster with `clusters`, and return its output.

    Raises SlurmError with the command's message in one line.
    """
    words = (command, *(["--clusters", clusters] if clusters else []), *words)
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
    """Join the last two lines of a command's error output, which state the error and its reason."""
    lines = [re.sub(r"^\w+: (?:error|fatal): ", "", line.strip()) for line in said.splitlines() if line.strip()]
    return ": ".join(dict.fromkeys(lines[-2:]))
