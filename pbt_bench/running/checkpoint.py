"""The saved state of an unfinished run: written now and then, and when the run is asked to stop.

`<study>/checkpoints/<run_id>.pt`: the SHA-256 of what follows, so that a flipped bit is noticed, then a file of torch,
loaded with weights_only, so that a crafted one executes nothing.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import monotonic
from typing import Any

import torch

from pbt_bench.running.claims import ClaimLost, Claims
from pbt_bench.running.signals import Stopped, StopSignal
from pbt_bench.running.store import Store
from pbt_bench.training.loop import Poll, State, no_poll

_CHECKSUM = hashlib.sha256().digest_size


class Checkpoint:
    """Where one run saves its state, and when."""

    def __init__(self, store: Store, run_id: str, every: float, stop: StopSignal, claims: Claims) -> None:
        self._store, self._run_id = store, run_id
        self._every, self._start = every, monotonic()
        self._due = self._start + every
        self._stop, self._claims = stop, claims
        self._before: list[float] = []
        self._phase: State = {}

    @property
    def sessions(self) -> list[float]:
        """Seconds of each time this run was worked on, this one last."""
        return [*self._before, monotonic() - self._start]

    def load(self) -> State | None:
        """The state to continue from; None if there is none, or none that can be read: then the run starts anew."""
        path = self._store.checkpoint(self._run_id)
        try:
            with path.open("rb") as file:
                checksum, content = file.read(_CHECKSUM), file.read()
            if hashlib.sha256(content).digest() != checksum:
                raise ValueError("it is damaged")
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or state.get("run_id") != self._run_id:
                raise ValueError("it is of another run")
            if not isinstance(state.get("training"), dict) or state.get("phase") not in ("warm-up", "train"):
                raise ValueError("it is not whole")
            self._before = [float(seconds) for seconds in state["sessions"]]
            return state
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever a damaged file makes torch raise
            self.refuse(error)
            return None

    def refuse(self, reason: Exception) -> None:
        """Say that the file is of no use."""
        line = (str(reason).splitlines() or [type(reason).__name__])[0]
        path = self._store.checkpoint(self._run_id)
        print(f"warning: {path} is not a checkpoint of this run ({line}); the run starts anew", file=sys.stderr)
        self._before = []

    @contextmanager
    def saving(self, **phase: Any) -> Iterator[Poll]:
        """While a training runs: what it is told to call after every step. `phase` is saved with its state."""
        self._phase = {"run_id": self._run_id, **phase}
        try:
            yield self._poll
        finally:
            self._stop.can_save = False
        self._stop.check()

    def _poll(self, state: Callable[[], State]) -> None:
        """Save the state if it is time, stop if that was asked. Raises ClaimLost, Stopped."""
        self._stop.can_save = True
        if self._claims.lost:
            raise ClaimLost
        if not self._stop.received and monotonic() < self._due:
            return
        buffer = io.BytesIO()
        torch.save({**self._phase, "sessions": self.sessions, "training": state()}, buffer)
        try:
            content = buffer.getvalue()
            self._store.put(self._store.checkpoint(self._run_id), hashlib.sha256(content).digest() + content)
        except OSError as error:  # the training itself is sound; a disk that stays full fails the record
            print(f"warning: the state of {self._run_id} is not saved: {error}", file=sys.stderr)
        self._due = monotonic() + self._every
        if self._stop.received:
            raise Stopped


def saving(checkpoint: Checkpoint | None, **phase: Any) -> AbstractContextManager[Poll]:
    """`checkpoint.saving`, or nothing is saved."""
    return checkpoint.saving(**phase) if checkpoint else nullcontext(no_poll)
