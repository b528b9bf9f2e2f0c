"""The figures of a report: drawn when what they show has changed, else kept from the last time."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import matplotlib as mpl
import msgspec
from matplotlib.figure import Figure

from pbt_bench.analysis.style import save


@dataclass(frozen=True)
class Picture:
    """A figure on the page."""

    slug: str  # figures/<slug>.png and .svg
    alt: str
    data: str  # the SVG as a data URI: nothing to fetch, and ids of two figures cannot clash
    width: int  # in CSS pixels, so that the page keeps its place free until it is seen
    height: int


class Gallery:
    """The figures in one folder. A figure is kept if its inputs, this code and its files are what they were."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._before: dict[str, tuple[str, str]] = {}
        with suppress(OSError, ValueError):
            self._before = msgspec.json.decode(self._list.read_bytes(), type=dict[str, tuple[str, str]])
        self._now: dict[str, tuple[str, str]] = {}

    @property
    def _list(self) -> Path:
        return self.folder / ".drawn.json"

    def picture(self, slug: str, alt: str, draw: Callable[[], Figure], shown: Iterable[str]) -> Picture:
        """The figure that `draw` gives, saved as `slug`; `shown` names the states of all that it is drawn from."""
        key = hashlib.sha256("\n".join([_code(), *shown]).encode()).hexdigest()
        stem = self.folder / slug
        if self._before.get(slug) != (key, self._files(slug)):
            save(draw(), stem)
        self._now[slug] = (key, self._files(slug))
        svg = self._read(slug, "svg")
        points = [re.search(rb'<svg[^>]* %s="([0-9.]+)pt"' % side, svg) for side in (b"width", b"height")]
        width, height = (round(float(found[1]) * 4 / 3) if found else 0 for found in points)
        return Picture(slug, alt, "data:image/svg+xml;base64," + b64encode(svg).decode(), width, height)

    def close(self) -> None:
        """Remember what was drawn."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._list.write_bytes(msgspec.json.encode(self._now))

    def _files(self, slug: str) -> str:
        """The digest of both files; "" if one is not there."""
        try:
            return hashlib.sha256(self._read(slug, "svg") + self._read(slug, "png")).hexdigest()
        except OSError:
            return ""

    def _read(self, slug: str, kind: str) -> bytes:
        return (self.folder / f"{slug}.{kind}").read_bytes()


@cache
def _code() -> str:
    """What draws: every source file of this room, and matplotlib's version."""
    sources = sorted(
        (item.name, item.read_bytes()) for item in files("pbt_bench.analysis").iterdir() if item.name.endswith(".py")
    )
    total = hashlib.sha256(mpl.__version__.encode())
    for name, source in sources:
        total.update(name.encode() + b"\0" + source)
    return total.hexdigest()
