"""Who works on which run: one worker at a time, on every machine that sees the folder.

A claim is the file `<study>/claims/<run_id>.<generation>`, made by exclusive creation; its owner renews the
modification time every `BEAT` seconds. One that was not renewed for `STALE` seconds is taken over by creating the next
generation, which again only one worker can do; the former owner, should it wake up, sees that file and stops.
Ages are differences of times that the file system wrote, so the clocks of the machines play no part. Files are opened
to be read, never only looked up: NFS promises fresh attributes for an opened file alone.
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

from pbt_bench.running.store import HOST

STALE = float(os.environ.get("PBT_BENCH_STALE_SECONDS", "40"))  # without renewal a claim is void; same for all workers
BEAT = STALE / 5  # seconds between renewals


class ClaimLost(Exception):
    """Another worker took this run over while this one did not answer."""


class Owner(msgspec.Struct, frozen=True):
    """Who wrote a claim, for people."""

    host: str
    pid: int
    job: str | None = None  # of Slurm


def slurm_job() -> str | None:
    """The Slurm job that this process is in, as squeue names it."""
    array = "_".join(filter(None, map(os.environ.get, ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"))))
    return array or os.environ.get("SLURM_JOB_ID")


class Claims:
    """The claims of one worker, which holds at most one at a time."""

    def __init__(self, study: Path, beat: float = BEAT, stale: float = STALE) -> None:
        self._folder = study / "claims"
        self._beat, self._stale = beat, stale
        self._clock = self._folder / f".clock-{secrets.token_hex(4)}.{HOST}.{os.getpid()}.tmp"
        self._owner = msgspec.json.encode(Owner(HOST, os.getpid(), slurm_job()))
        self._held: tuple[str, int] | None = None
        self._lost = False
        self._asked = self._offset = -inf
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, run_id: str) -> bool:
        """Claim `run_id`; False if another worker holds it."""
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
                generation += age is not None  # one that was released this moment is free again
                continue
            except FileNotFoundError:  # the first claim of a study
                self._folder.mkdir(exist_ok=True)
                continue
            except OSError:  # made, but not written: a full disk
                _remove(path)
                raise
            self._held, self._lost = (run_id, generation), False
            self._start()
            return True

    def check(self) -> None:
        """Raises ClaimLost if the claim held was taken over."""
        if self._lost or (self._held and self._superseded()):
            raise ClaimLost

    @property
    def lost(self) -> bool:
        """What the last renewal saw; costs nothing, for every step of a training."""
        return self._lost

    def release(self) -> None:
        """Give the claim up: the oldest generation first, so that at no time a stale one is the newest."""
        held, self._held = self._held, None
        if held and not self._lost:
            for generation in range(1, held[1] + 1):
                _remove(self._path(held[0], generation))

    def close(self) -> None:
        """Release, and stop renewing."""
        self.release()
        thread, self._thread = self._thread, None
        self._wake.set()
        if thread:
            thread.join()
        _remove(self._clock)

    def busy(self, run_id: str) -> bool:
        """Is there a claim of `run_id` that its owner renews?"""
        generation = 1
        while (age := self._age(run_id, generation)) is not None:
            if abs(age) < self._stale:
                return True
            generation += 1
        return False

    def forget(self, run_id: str) -> None:
        """Remove every claim of a run that has a record, or whose worker is known to be dead."""
        for _, _, path in _claims(self._folder, run_id):
            _remove(path)

    def _path(self, run_id: str, generation: int) -> Path:
        return self._folder / f"{run_id}.{generation}"

    def _age(self, run_id: str, generation: int) -> float | None:
        """Seconds since the claim was renewed; None if there is none. Large below 0: the clock was set back since."""
        try:
            with self._path(run_id, generation).open("rb") as file:
                return self._now() - os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None

    def _now(self) -> float:
        """The file system's own time, asked once a second."""
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
                continue  # the file system is away for a moment; the next beat tries again
            if superseded and self._held == held:
                self._lost = True


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # what cannot be removed goes stale
        path.unlink()


def _claims(folder: Path, run_id: str = "*") -> list[tuple[str, int, Path]]:
    """(run id, generation, file) of every claim, the oldest of a run first; whatever else lies there is none."""
    paths = [path for path in folder.glob(f"{run_id}.*") if re.fullmatch(r"[0-9a-f]{16}\.[1-9][0-9]*", path.name)]
    return sorted((path.stem, int(path.suffix[1:]), path) for path in paths)


def active(study: Path) -> dict[str, Owner]:
    """Who is at which run now: the newest claims of all runs, as far as they are renewed."""
    newest = {run: generation for run, generation, _ in _claims(study / "claims")}
    claims = Claims(study)
    try:
        ages = {run: claims._age(run, generation) for run, generation in newest.items()}
    except OSError:  # a folder that can only be read: the clocks of the machines must do
        ages = {}
        for run, generation in newest.items():
            with contextlib.suppress(OSError):  # released meanwhile
                ages[run] = time() - claims._path(run, generation).stat().st_mtime
    finally:
        claims.close()
    fresh = [run for run, age in ages.items() if age is not None and abs(age) < STALE]
    return {run: owner(study, run) or Owner("an unknown host", 0) for run in fresh}


def owner(study: Path, run_id: str) -> Owner | None:
    """Who holds `run_id`, or held it last, for messages; None if nobody or not readable."""
    found = _claims(study / "claims", run_id)
    try:
        return msgspec.json.decode(found[-1][2].read_bytes(), type=Owner) if found else None
    except (OSError, ValueError):
        return None
