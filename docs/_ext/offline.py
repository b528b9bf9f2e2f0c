"""Check that fails the build if a page loads a resource from another host. Links for the reader are allowed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_REQUESTS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\b(?:src|data|srcset)=["'](?:https?:)?//[^"']+"""
    r"""|<link\b(?=[^>]*\brel=["'](?:stylesheet|preload|preconnect|icon|shortcut icon)["'])"""
    r"""[^>]*?\bhref=["'](?:https?:)?//[^"']+"""
    r"""|(?:@import\s+["']?|url\(\s*["']?)(?:https?:)?//[^"')]+""",
    re.IGNORECASE,
)


def requests(text: str) -> list[str]:
    """Return the resources that a browser would load from other hosts to show this HTML or CSS."""
    return [match.group() for match in _REQUESTS.finditer(text)]


def _check(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    for path in sorted(Path(app.outdir).rglob("*")):
        if path.suffix in (".html", ".css") and (found := requests(path.read_text(encoding="utf-8"))):
            raise RuntimeError(f"{path} asks another computer: {found[0]}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Check every page when the build has ended."""
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
