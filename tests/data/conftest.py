"""A fixture that blocks the network."""

from __future__ import annotations

from typing import Any
from urllib.error import URLError

import pytest


@pytest.fixture(autouse=True)
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of attempts to reach the network. Every attempt fails at once."""
    attempts: list[str] = []

    def refuse(request: Any, *_: object, **__: object) -> None:
        attempts.append(request.full_url)
        raise URLError("no network\nhere")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return attempts
