"""A study: its panels with published numbers, bounds and overlaps of masks; its variants, all settings together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import pandas as pd

from pbt_bench.analysis.records.published import Published
from pbt_bench.analysis.statistics.jaccard import Masks, mask_overlaps
from pbt_bench.analysis.statistics.literature import with_published
from pbt_bench.analysis.statistics.method_styles import LOTTERY_TICKET, PRUNED_AFTER_TRAINING
from pbt_bench.analysis.statistics.odd_records import odd_records
from pbt_bench.analysis.statistics.panel import Panel, panels
from pbt_bench.analysis.statistics.pooled import Pooled, pool
from pbt_bench.analysis.statistics.variant_effects import AXES, Variant, find_variants

# What a panel and its upper bound share.
_SAME_IN_BOUNDS = (
    "dataset",
    "model",
    "recipe",
    "scoring",
    *(axis for axis in AXES if axis not in ("warmup", "rewind")),
)


@dataclass(frozen=True)
class Study:
    """The panels of one study; figures of the whole study take this object."""

    panels: Sequence[Panel]
    left_out: Mapping[str, str] = field(default_factory=dict)  # run id -> reason, from `odd_records`

    @property
    def recorded(self) -> bool:
        """True if any pruned run has a record."""
        return any(panel.recorded for panel in self.panels)

    @cached_property
    def variants(self) -> list[Variant]:
        """The pairs of panels that differ in one axis."""
        return find_variants(self.panels)

    @cached_property
    def pooled(self) -> Pooled:
        """The comparison of the methods over all settings."""
        return pool(self.panels)

    @cached_property
    def datasets(self) -> dict[str, list[Panel]]:
        """The panels that share a figure, by its title: all models of a dataset in the same setting."""
        groups: dict[str, list[Panel]] = {}
        for panel in self.panels:
            groups.setdefault(panel.dataset + (f" ({panel.setting})" if panel.setting else ""), []).append(panel)
        return groups


def assemble(table: pd.DataFrame, published: Published, read: Callable[[str], Masks | None]) -> Study:
    """Divide a study's runs into panels, with published numbers, upper bounds, and overlaps of masks from `read`.

    Odd records are left out. So is a panel that has neither a run nor a published number, unless no panel has any.
    """
    odd = odd_records(table)
    parts = with_bounds(with_published(panels(table[~table["run_id"].isin(odd)]), published))
    parts = [panel for panel in parts if panel.recorded or len(panel.printed)] or parts
    return Study([replace(panel, overlaps=mask_overlaps(panel.runs, read)) for panel in parts], odd)


def with_bounds(parts: Sequence[Panel]) -> list[Panel]:
    """Return the panels with the upper bounds of the same study in `bounds`: mean accuracies by sparsity.

    A bound is `magnitude` after a dense warm-up at least as long as the training. The network is then trained further,
    or rewound to its initial weights (a lottery ticket; Frankle and Carbin 2019, arXiv:1803.03635). A bound is added to
    the panel that has no warm-up and is otherwise the same.
    """
    found: dict[tuple[object, ...], dict[str, pd.Series]] = {}
    for panel in parts:
        first = panel.runs.iloc[0]
        count, _, unit = first["warmup"].partition(" ")
        whole = unit == "epochs" and int(count) >= first["recipe"].epochs
        means = panel.cells["mean"].dropna()
        if whole and "magnitude" in means.index.get_level_values("method"):
            name = LOTTERY_TICKET if first["rewind"] else PRUNED_AFTER_TRAINING
            found.setdefault(_setting(panel), {})[name] = means.loc["magnitude"]
    return [
        replace(panel, bounds=found.get(_setting(panel), {})) if panel.runs["warmup"].iloc[0] == "none" else panel
        for panel in parts
    ]


def _setting(panel: Panel) -> tuple[object, ...]:
    return tuple(panel.runs.iloc[0][name] for name in _SAME_IN_BOUNDS)
