"""Claims ensure that one worker at a time executes a run, on all machines that share the results folder.

A claim is the file `<study>/claims/<run_id>.<generation>`, made by exclusive creation. Its owner renews the
modification time every `BEAT` seconds. A claim that was not renewed for `STALE` seconds is taken over by creating the
next generation, which again only one worker can do; if the former owner resumes, it sees that file and stops.
Ages are differences of times that the file system wrote, so the clocks of the machines have no effect. Files are
opened before their times are read: NFS guarantees fresh attributes only for an opened file.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
from math import inf
from pathlib import Path
from time import monotonic, time

import msgspec

from pbt_bench.errors import RequestError
from pbt_bench.running.store import HOST, MACHINE, content


def _stale_seconds(text: str) -> float:
    """Read PBT_BENCH_STALE_SECONDS. Raises RequestError unless it is a finite number above 0."""
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < inf:
            return seconds
    raise RequestError(f"PBT_BENCH_STALE_SECONDS = {text!r} must be a finite number of seconds above 0")


STALE = _stale_seconds(os.environ.get("PBT_BENCH_STALE_SECONDS", "40"))  # same for all workers
BEAT = STALE / 5  # seconds between renewals


_MOST_CLAIM_BYTES = 10_000  # of a claim


class ClaimLost(Exception):
    """Raised when another worker took over the run because this worker did not renew its claim."""


class Owner(msgspec.Struct, frozen=True):
    """The process that wrote a claim, for display."""

    host: str
    pid: int
    job: str | None = None  # Slurm's id


def slurm_job() -> str | None:
    """Return the id of this process's Slurm job in the format of squeue; None outside Slurm."""
    array = "_".join(filter(None, map(os.environ.get, ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"))))
    return array or os.environ.get("SLURM_JOB_ID")


class Claims:
    """The claims of one worker, which holds at most one claim at a time."""

    def __init__(self, study: Path, beat: float = BEAT, stale: float = STALE) -> None:
        self._folder = study / "claims"
        self._beat, self._stale = beat, stale
        self._clock = self._folder / f".clock-{secrets.token_hex(4)}.{MACHINE}.{os.getpid()}.tmp"
        self._owner = msgspec.json.encode(Owner(HOST, os.getpid(), slurm_job()))
        self._held: tuple[str, int] | None = None
        self._lost = False
        self._asked = self._offset = -inf
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, run_id: str) -> bool:
        """Claim `run_id`; return False if another worker holds it."""
        generation = 1
        while True:
            path = self._path(run_id, generation)
            try:
                with path.open("xb") as file:
                    file.write(self._owner)
            except FileExistsError:
                age = self._age(run_id, generation)
                if age is not None and abs(age) < self._stale:
                    return False
                generation += age is not None  # None: it was released in the meantime
                continue
            except FileNotFoundError:  # this is the first claim of the study
                self._folder.mkdir(exist_ok=True)
                continue
            except OSError:  # the disk is full: the file exists, but is empty
                _unlink(path)
                raise
            self._held, self._lost = (run_id, generation), False
            self._start()
            return True

    def check(self) -> None:
        """Raise ClaimLost if the claim was taken over."""
        if self._lost or (self._held and self._superseded()):
            raise ClaimLost

    @property
    def lost(self) -> bool:
        """True if the last renewal found the claim taken over. Reads no file, so every training step can check it."""
        return self._lost

    def release(self) -> None:
        """Release the claim. Its files are removed oldest generation first, so that a stale one is never the newest."""
        held, self._held = self._held, None
        if held and not self._lost:
            for generation in range(1, held[1] + 1):
                _unlink(self._path(held[0], generation))

    def close(self) -> None:
        """Release the claim and stop the thread that renews it."""
        self.release()
        thread, self._thread = self._thread, None
        self._wake.set()
        if thread:
            thread.join()
        _unlink(self._clock)

    def busy(self, run_id: str) -> bool:
        """Return whether `run_id` has a claim that its owner renews."""
        generation = 1
        while (age := self._age(run_id, generation)) is not None:
            if abs(age) < self._stale:
                return True
            generation += 1
        return False

    def forget(self, run_id: str) -> None:
        """Remove all claims of a run that has a record or whose worker is dead."""
        for _, _, path in _claims(self._folder, run_id):
            _unlink(path)

    def _path(self, run_id: str, generation: int) -> Path:
        return self._folder / f"{run_id}.{generation}"

    def _age(self, run_id: str, generation: int) -> float | None:
        """Return the seconds since the claim was renewed, below 0 if the clock was set back; None without a claim."""
        try:
            # A pipe in place of a claim would block without O_NONBLOCK; a folder opens too.
            handle = os.open(self._path(run_id, generation), os.O_RDONLY | os.O_NONBLOCK)
            try:
                return self._now() - os.fstat(handle).st_mtime
            finally:
                os.close(handle)
        except FileNotFoundError:
            return None

    def _now(self) -> float:
        """Return the time of the file system, which is read once a second."""
        if monotonic() - self._asked > 1:
            with self._clock.open("wb") as file:
                file.write(b"1")
            with self._clock.open("rb") as file:
                self._offset = os.fstat(file.fileno()).st_mtime - monotonic()
            self._asked = monotonic()
        return monotonic() + self._offset

    def _superseded(self) -> bool:
        assert self._held
        run_id, generation = self._held
        return self._path(run_id, generation + 1).exists() or not self._path(run_id, generation).exists()

    def _start(self) -> None:
        if self._thread is None:
            self._wake.clear()
            self._thread = threading.Thread(target=self._renew, name="claim", daemon=True)
            self._thread.start()

    def _renew(self) -> None:
        while not self._wake.wait(self._beat):
            held = self._held
            if held is None:
                continue
            try:
                os.utime(self._path(*held))
                superseded = self._path(held[0], held[1] + 1).exists()
            except FileNotFoundError:
                superseded = True
            except OSError:
                continue  # the file system is unavailable for a moment; the next beat tries again
            if superseded and self._held == held:
                self._lost = True


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):  # a claim that cannot be removed becomes stale
        path.unlink()


def _claims(folder: Path, run_id: str = "*") -> list[tuple[str, int, Path]]:
    """Return (run id, generation, file) of every claim, the oldest of a run first; other files are ignored."""
    paths = [path for path in folder.glob(f"{run_id}.*") if re.fullmatch(r"[0-9a-f]{16}\.[1-9][0-9]*", path.name)]
    return sorted((path.stem, int(path.suffix[1:]), path) for path in paths)


def active(study: Path) -> dict[str, Owner]:
    """Return the owner of every run whose newest claim is renewed, by run id."""
    newest = {run: generation for run, generation, _ in _claims(study / "claims")}
    claims = Claims(study)
    try:
        ages = {run: claims._age(run, generation) for run, generation in newest.items()}
    except OSError:  # the folder is read-only: fall back to the clocks of the machines
        ages = {}
        for run, generation in newest.items():
            with contextlib.suppress(OSError):  # released in the meantime
                ages[run] = time() - claims._path(run, generation).stat().st_mtime
    finally:
        claims.close()
    fresh = [run for run, age in ages.items() if age is not None and abs(age) < STALE]
    return {run: owner(study, run) or Owner("an unknown host", 0) for run in fresh}


def owner(study: Path, run_id: str) -> Owner | None:
    """Return the current or last owner of `run_id`; None if there is no readable claim."""
    found = _claims(study / "claims", run_id)
    try:
        return msgspec.json.decode(content(found[-1][2], _MOST_CLAIM_BYTES), type=Owner) if found else None
    except (OSError, ValueError, RecursionError):
        return None
