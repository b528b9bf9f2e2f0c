"""Conversion of docstrings, which are written for readers of the code, to reStructuredText.

`x` becomes code, bars and stars are escaped (|θ·g| is not a substitution), and a paragraph with indented lines becomes
a literal block.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_CODE = re.compile(r"(``?[^`]+``?)")


def restructured(lines: list[str]) -> list[str]:
    """Return the docstring as reStructuredText."""
    text: list[str] = []
    for paragraph in "\n".join(lines).split("\n\n"):
        inside = paragraph.strip("\n").split("\n")
        if any(line.startswith("  ") for line in inside):
            text += ["::", "", *(f"    {line}" for line in inside), ""]
        else:
            text += [*map(_line, inside), ""]
    return text


def _line(line: str) -> str:
    parts = _CODE.split(line)
    for index, part in enumerate(parts):
        if index % 2:
            parts[index] = f"``{part.strip('`')}``"
        else:
            parts[index] = re.sub(r"([\\*|]|_\b)", r"\\\1", part)
    return "".join(parts)


def _process(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = restructured(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Process every docstring that autodoc finds."""
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
