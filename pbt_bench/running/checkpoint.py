"""The saved state of an unfinished run, written at intervals and when the process is asked to stop.

`<study>/checkpoints/<run_id>.pt` holds a SHA-256 digest, which detects damage, followed by the output of torch.save.
It is loaded with weights_only, so that a crafted file executes no code.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from time import monotonic
from typing import Any

import torch

from pbt_bench.errors import printable, reason
from pbt_bench.running.claims import ClaimLost, Claims
from pbt_bench.running.signals import Stopped, StopSignal
from pbt_bench.running.store import Store, content, set_aside
from pbt_bench.training.loop import Saver
from pbt_bench.training.stepper import State

_CHECKSUM = hashlib.sha256().digest_size
_MOST_STATE_BYTES = 2**36  # of a state: 64 GiB


class Checkpoint:
    """Save and load the state of one run; a `Saver` for its training."""

    def __init__(self, store: Store, run_id: str, every: float, stop: StopSignal, claims: Claims) -> None:
        self._store, self._run_id = store, run_id
        self._every, self._start = every, monotonic()
        self._next = self._start + every
        self._stop, self._claims = stop, claims
        self._before: list[float] = []
        self.environment: dict[str, Any] = {}  # of this session, which the executor sets
        self.earlier: list[dict[str, Any]] = []  # environments of the sessions before this one
        self._phase: State = {}

    @property
    def sessions(self) -> list[float]:
        """Seconds of each session of this run; the current session is the last."""
        return [*self._before, monotonic() - self._start]

    def load(self) -> State | None:
        """Return the saved state; None if there is no valid one, and the run starts from the beginning."""
        path = self._store.checkpoint(self._run_id)
        try:
            stored = memoryview(content(path, _MOST_STATE_BYTES))
            if hashlib.sha256(stored[_CHECKSUM:]).digest() != stored[:_CHECKSUM]:
                raise ValueError("it is damaged")
            state = torch.load(io.BytesIO(stored[_CHECKSUM:]), map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or state.get("run_id") != self._run_id:
                raise ValueError("it belongs to another run")
            if not isinstance(state.get("training"), dict) or state.get("phase") not in (
                "warm-up",
                "statistics",
                "train",
            ):
                raise ValueError("it is incomplete")
            self._before = [float(seconds) for seconds in state["sessions"]]
            # A state of an earlier version has no environments.
            self.earlier = [dict(each) for each in state.get("environments", [{} for _ in self._before])]
            return state
        except FileNotFoundError:
            return None
        except Exception as error:  # torch raises many types for a damaged file
            self.refuse(error)
            return None

    def refuse(self, error: Exception) -> None:
        """Warn that the file cannot be used, and keep it under another name."""
        path, why = self._store.checkpoint(self._run_id), printable(reason(error))
        text = f"{path} is not a checkpoint of this run ({why}); the run starts from the beginning"
        print(f"warning: {text}", file=sys.stderr)
        with suppress(OSError):
            set_aside(path)
        self._before, self.earlier = [], []

    @contextmanager
    def saving(self, **phase: Any) -> Iterator[Saver]:
        """Return the saver for one training; `phase` is saved with its state."""
        self._phase = {"run_id": self._run_id, **phase}
        try:
            yield self
        finally:
            self._stop.can_save = False
        self._stop.check()

    def due(self) -> bool:
        """Return whether to save now. Raises ClaimLost if another worker has taken the run over."""
        self._stop.can_save = True
        if self._claims.lost:
            raise ClaimLost
        return self._stop.received or monotonic() >= self._next

    def save(self, training: State) -> None:
        """Write the state of the training. Raises Stopped after that if the process was asked to stop."""
        buffer = io.BytesIO()
        here = {**self.environment, "seconds": self.sessions[-1]}
        made = {"sessions": self.sessions, "environments": [*self.earlier, here]}
        torch.save({**self._phase, **made, "training": training}, buffer)
        saved = buffer.getvalue()
        try:
            self._store.put(self._store.checkpoint(self._run_id), hashlib.sha256(saved).digest() + saved)
        except OSError as error:  # the training itself is intact; if the disk stays full, writing the record fails
            print(f"warning: the state of {self._run_id} is not saved: {error}", file=sys.stderr)
        self._next = monotonic() + self._every
        if self._stop.received:
            raise Stopped


def saving(checkpoint: Checkpoint | None, **phase: Any) -> AbstractContextManager[Saver | None]:
    """Return `checkpoint.saving`; without a checkpoint, a context manager of None."""
    return checkpoint.saving(**phase) if checkpoint else nullcontext()
