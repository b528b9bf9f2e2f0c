"""Conversion to MyST: citations with links, docstrings as prose, values in the syntax of a grid file."""

from __future__ import annotations

from collections.abc import Mapping


def cited(cite: str) -> str:
    """Return a citation with links for its arXiv numbers and addresses."""
    words = []
    for word in cite.split(" "):
        bare = word.strip(",;()")
        number = bare.removeprefix("arXiv:")
        link = f"<{bare}>" if bare.startswith("https:") else f"[{bare}](https://arxiv.org/abs/{number})"
        words.append(word.replace(bare, link) if bare.startswith(("arXiv:", "https:")) else word)
    return " ".join(words)


def prose(text: str) -> str:
    """Return a docstring as MyST. Markup is escaped; a paragraph with indented lines becomes a text block."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        if any(line.startswith("  ") for line in paragraph.split("\n")):
            paragraphs.append(f"```text\n{paragraph}\n```")
        else:
            pieces = paragraph.split("`")
            pieces[::2] = [escaped(piece) for piece in pieces[::2]]
            paragraphs.append("`".join(pieces))
    return "\n\n".join(paragraphs)


def escaped(text: str) -> str:
    """Return text with its markup characters escaped."""
    for mark in "\\*_|<[$":
        text = text.replace(mark, f"\\{mark}")
    return text


def toml(value: object) -> str:
    """Return a value in the syntax of a grid file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return f'"{value}"' if isinstance(value, str) else "none" if value is None else str(value)


def toml_block(tables: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return the lines of a TOML block with these tables; empty tables are omitted."""
    lines = []
    for name, table in tables.items():
        if table:
            lines += ["", f"[{name}]", *(f"{key} = {toml(value)}" for key, value in table.items())]
    return ["```toml", *lines[1:], "```"]
