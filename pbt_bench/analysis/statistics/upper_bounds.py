"""Upper bounds for pruning at initialization: magnitude pruning after the whole training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from pbt_bench.analysis.statistics.method_styles import LOTTERY_TICKET, PRUNED_AFTER_TRAINING
from pbt_bench.analysis.statistics.panel import Panel
from pbt_bench.analysis.statistics.variant_effects import AXES

_SAME = ("dataset", "model", "recipe", "scoring", *(axis for axis in AXES if axis not in ("warmup", "rewind")))


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
    return tuple(panel.runs.iloc[0][name] for name in _SAME)
