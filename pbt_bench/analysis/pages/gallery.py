"""Figure files of a report, drawn again only if their inputs or the code changed."""

from __future__ import annotations

import hashlib
import re
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from time import monotonic

import matplotlib as mpl
import msgspec
from matplotlib.figure import Figure

from pbt_bench.analysis.figures import Drawing, source
from pbt_bench.analysis.figures.style import save
from pbt_bench.analysis.records.forks import FORK, processes, without_fork_warning

_PIXELS_OF_COLUMN = 400  # CSS pixels: more than the width of a figure of one column of a paper, 3.5 inches
_WAIT_FOR_HELPERS = 60.0  # seconds; a forked process may wait forever for a lock of a thread that only its parent has


@dataclass(frozen=True)
class Picture:
    """A figure on the page; its file exists after `Gallery.draw`."""

    slug: str  # figures/<slug>.png and .svg
    alt: str
    folder: Path

    @cached_property
    def data(self) -> str:
        """The SVG as a data URI: the page needs no further file, and ids of two figures cannot clash."""
        return "data:image/svg+xml;base64," + b64encode(self._svg).decode()

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height in CSS pixels, with which the page reserves space until the figure is visible."""
        points = [re.search(rb'<svg[^>]* %s="([0-9.]+)pt"' % side, self._svg) for side in (b"width", b"height")]
        width, height = (round(float(found[1]) * 4 / 3) if found else 0 for found in points)
        return width, height

    @property
    def wide(self) -> bool:
        """True if the figure needs the width of the page; others stand side by side."""
        return self.size[0] > _PIXELS_OF_COLUMN

    @cached_property
    def _svg(self) -> bytes:
        return (self.folder / f"{self.slug}.svg").read_bytes()


class Gallery:
    """The figures in one folder; a figure is kept if its inputs, its files and the source code are unchanged."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._list = folder, folder / ".drawn.json"
        self._before: dict[str, tuple[str, str]] = {}
        with suppress(OSError, ValueError):
            self._before = msgspec.json.decode(self._list.read_bytes(), type=dict[str, tuple[str, str]])
        self._keys: dict[str, str] = {}
        self._new: dict[str, Callable[[], Figure]] = {}

    def picture(self, drawing: Drawing) -> Picture | None:
        """Register a drawing with data; it is drawn again if its data, its file or the code of the analysis changed."""
        if not drawing.drawn:
            return None
        stem, states = drawing.slug, [panel.states for panel in drawing.panels]
        self._keys[stem] = hashlib.sha256("\n".join([_code(), source(drawing.figure), *states]).encode()).hexdigest()
        if self._before.get(stem) != (self._keys[stem], self._files(stem)):
            self._new[stem] = partial(drawing.figure.draw, drawing.of)
        return Picture(stem, drawing.title, self.folder)

    def draw(self) -> None:
        """Draw and save new and changed figures on all processors, and record their digests."""
        shares = [list(self._new)[start :: processes()] for start in range(processes())]
        helpers = [FORK.Process(target=self._help, args=(share,), daemon=True) for share in shares[1:] if share]
        with without_fork_warning():
            for helper in helpers:
                helper.start()
        start = monotonic()
        self._save(shares[0])
        end = monotonic() + _WAIT_FOR_HELPERS + 10 * (monotonic() - start)
        for helper, share in zip(helpers, shares[1:], strict=False):
            helper.join(max(0, end - monotonic()))
            if helper.exitcode != 0:
                helper.kill()
                helper.join()
                self._save(share)
        self.folder.mkdir(parents=True, exist_ok=True)
        drawn = {slug: (key, self._files(slug)) for slug, key in self._keys.items()}
        self._list.write_bytes(msgspec.json.encode(drawn))

    def _help(self, slugs: Iterable[str]) -> None:
        try:
            self._save(slugs)
        except (Exception, KeyboardInterrupt):
            sys.exit(1)  # the parent process draws the figures again and reports the error

    def _save(self, slugs: Iterable[str]) -> None:
        for slug in slugs:
            save(self._new[slug](), self.folder / slug)

    def _files(self, slug: str) -> str:
        """Return the digest of the SVG and PNG files, or "" if one is missing."""
        try:
            files = [(self.folder / f"{slug}.{kind}").read_bytes() for kind in ("svg", "png")]
        except OSError:
            return ""
        return hashlib.sha256(b"".join(files)).hexdigest()


@cache
def _code() -> str:
    """Return the digest of all source files of the analysis and of matplotlib's version."""
    total = hashlib.sha256(mpl.__version__.encode())
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()
