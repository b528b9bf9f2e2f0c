"""A study: its panels with everything that is compared with them, its variants and its ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from pbt_bench.analysis.records.published import Published
from pbt_bench.analysis.statistics.average_ranks import Ranks, rank_methods
from pbt_bench.analysis.statistics.jaccard import Masks, mask_overlaps
from pbt_bench.analysis.statistics.literature import with_published
from pbt_bench.analysis.statistics.panel import Panel, panels
from pbt_bench.analysis.statistics.upper_bounds import with_bounds
from pbt_bench.analysis.statistics.variant_effects import Variant, find_variants


@dataclass(frozen=True)
class Study:
    """The panels of one study; figures of the whole study take this object."""

    panels: Sequence[Panel]

    @property
    def recorded(self) -> bool:
        """True if any pruned run has a record."""
        return any(panel.recorded for panel in self.panels)

    @cached_property
    def variants(self) -> list[Variant]:
        """The pairs of panels that differ in one axis."""
        return find_variants(self.panels)

    @cached_property
    def ranks(self) -> Ranks:
        """The average ranks of the methods over all settings."""
        return rank_methods(self.panels)

    @cached_property
    def datasets(self) -> dict[str, list[Panel]]:
        """The panels that share a figure, by its title: all models of a dataset in the same setting."""
        groups: dict[str, list[Panel]] = {}
        for panel in self.panels:
            groups.setdefault(panel.dataset + (f" ({panel.setting})" if panel.setting else ""), []).append(panel)
        return groups


def assemble(table: pd.DataFrame, published: Published, read: Callable[[str], Masks | None]) -> Study:
    """Divide a study's runs into panels, with published numbers, upper bounds, and overlaps of masks from `read`."""
    parts = with_bounds(with_published(panels(table), published))
    return Study([replace(panel, overlaps=mask_overlaps(panel.runs, read)) for panel in parts])
