"""Values as short texts: sparsities, settings, differences, numbers of things, names."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence


def tick_label(sparsity: float) -> str:
    """Format a sparsity as a short tick label: 0.995 for 0.995, 0.9953 for 0.995278, 0.999997 for 0.9999968."""
    decimals = max(4, 1 - math.floor(math.log10(1 - sparsity)))
    return f"{sparsity:.{decimals}f}".rstrip("0").rstrip(".")


def text_of(value: object) -> str:
    """Format the value of a setting: yes or no, "default" for None, and the items of a sequence or "none"."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "default" if value is None else str(value)


def points(share: float) -> str:
    """Format a difference of accuracies in percentage points with its sign, never as -0.00."""
    return f"{round(100 * share, 2) + 0.0:+.2f}"


def counted(number: int, noun: str) -> str:
    """Format a number with its noun: `1 seed`, `3 seeds`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def joined(parts: Sequence[str]) -> str:
    """Join one or more texts: `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def shortened(name: str, most: int = 26) -> str:
    """Replace the middle of a name with an ellipsis if it has more than `most` characters."""
    half = most // 2 - 1
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def layer_labels(names: Sequence[str]) -> list[str]:
    """Remove shared leading parts and `.weight` from layer names, and shorten long names in the middle."""
    parts = [name.removesuffix(".weight").split(".") for name in names]
    while min(map(len, parts)) > 1 and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    return [shortened(".".join(part)) for part in parts]


def is_shortcut(name: str) -> bool:
    """Return True if the name of a layer says that it is on a shortcut, parallel to other layers."""
    return re.search("shortcut|downsample", name, re.IGNORECASE) is not None
