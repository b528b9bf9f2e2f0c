"""Calls of torch's functions: names of functions, and the tensors in nested arguments and results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def names(text: str) -> frozenset[str]:
    """Return the names in `text`, which are separated by white space."""
    return frozenset(text.split())


def plain_name(function: Callable[..., Any]) -> str:
    """Return `add` for add, add_ and __add__, and `iadd` for __iadd__."""
    return getattr(function, "__name__", str(function)).strip("_")


def in_place(function: Callable[..., Any]) -> bool:
    """Return whether a function, judged by its name, writes its result into its first argument."""
    name = getattr(function, "__name__", "")
    if name.startswith("__"):
        return name in ("__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__")
    return bool(name.endswith("_"))


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)


def changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return nested tuples, lists and mappings with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: changed(item, change) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [changed(item, change) for item in value]
        return items if isinstance(value, list) else type(value)(items) if hasattr(value, "n_fields") else tuple(items)
    return value
