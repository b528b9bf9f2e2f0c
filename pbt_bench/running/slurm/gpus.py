"""Requests for GPUs in the notations of Slurm: `2`, `a100:2`, `gpu:a100:2`, `gres/gpu=2`."""

from __future__ import annotations

import re

_REQUEST = re.compile(r"(?:(?P<type>[\w.+-]+):)?(?P<count>[1-9]\d*|0)")
# Shards and MPS percentages are parts of one GPU. A type has a character that is no digit.
_GRES = re.compile(
    r"(?:gres[/:])?(?P<kind>gpu|mps|shard)(?::(?P<type>[\w.+-]*[A-Za-z_][\w.+-]*))?(?:[:=](?P<count>\d+)[KMGT]?)?(?:\(.*\))?",
    re.IGNORECASE,
)


def gpu_count(request: int | str) -> int:
    """Return the number of GPUs in a number or `TYPE:NUMBER`. Raises ValueError for any other text."""
    match = _REQUEST.fullmatch(str(request))
    if match is None:
        raise ValueError
    return int(match["count"])


def gpu_type(request: int | str) -> str | None:
    """Return the TYPE in `TYPE:NUMBER`."""
    return str(request).rpartition(":")[0] or None


def gres_request(value: object) -> str | None:
    """Return the GPUs in a list of generic resources as a number or `TYPE:NUMBER`; None if it has no GPU.

    A list with several types gives their number without a type.
    """
    found = [match for item in str(value).split(",") if (match := _GRES.fullmatch(item.strip()))]
    if not found:
        return None
    count = sum(int(match["count"] or 1) for match in found if match["kind"].lower() == "gpu") or 1
    types = {match["type"] for match in found}
    return f"{types.pop()}:{count}" if len(types) == 1 and None not in types else str(count)
