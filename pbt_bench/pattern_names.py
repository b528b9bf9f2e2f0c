"""The values of `pattern`: "none", "channel", or "N:M" such as "2:4". This module does not import torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pbt_bench.errors import RequestError, unknown

NAMES = ("none", "channel", "N:M")


@dataclass(frozen=True)
class Pattern:
    """A pattern other than "none"."""

    name: str
    group: tuple[int, int] | None = None  #: (N, M) of "N:M"; None for "channel"

    def allows(self, sparsity: float) -> bool:
        """Return whether the pattern can have this sparsity."""
        return not self.group or sparsity == (self.group[1] - self.group[0]) / self.group[1]

    def check(self, sparsity: float, where: str = "") -> None:
        """Raise RequestError if the pattern cannot have this sparsity: that of N:M is 1 - N/M."""
        if self.group and not self.allows(sparsity):
            n, m = self.group
            raise RequestError(
                f"{where}{': ' if where else ''}sparsity = {sparsity!r} with pattern = {self.name!r}: "
                f"the sparsity must be 1 - {n}/{m} = {(m - n) / m!r}"
            )


def parse(pattern: str, where: str = "") -> Pattern | None:
    """Return the pattern, or None for "none".

    Raises RequestError, which starts with `where`, unless it is "none", "channel" or "N:M" with 1 <= N < M < 10000.
    """
    if pattern == "none":
        return None
    if pattern == "channel":
        return Pattern(pattern)
    if found := re.fullmatch(r"([1-9][0-9]{0,3}):([1-9][0-9]{0,3})", str(pattern)):
        n, m = map(int, found.groups())
        if n < m:
            return Pattern(pattern, (n, m))
    if re.search(r"[0-9:]", str(pattern)):
        raise RequestError(
            f"{where}{': ' if where else ''}pattern = {pattern!r} must be 'none', 'channel', or 'N:M' with whole "
            "numbers 1 <= N < M, such as '2:4': of every M weights, N are kept"
        )
    raise unknown("pattern", pattern, NAMES, where)
