"""Share of the weights of each layer whose score is exactly zero, by method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pbt_bench.analysis.statistics.labels import layer_labels
from pbt_bench.analysis.statistics.panel import Panel


@dataclass(frozen=True)
class Zeros:
    """Shares by layer (rows, from input to output) and method, as formatted percent; "0" means no weight."""

    methods: list[str]
    rows: list[tuple[str, list[str]]]

    @property
    def none(self) -> bool:
        """True if no method gives any weight a score of exactly zero."""
        return all(text == "0" for _, cells in self.rows for text in cells)


def layer_zeros(panel: Panel) -> Zeros:
    """Compute the share of exactly zero scores in each layer, as the mean over the runs of a method.

    Scores are counted in the first round, before any pruning, so they do not depend on sparsity.
    """
    runs = panel.diagnosed
    shares = {
        method: np.mean([layers.zero_scores / layers.prunable for layers in own["layers"]], axis=0)
        for method, own in runs.groupby("method")
    }
    methods = [method for method in panel.methods if method in shares]
    names = layer_labels(runs["layers"].iloc[0].names) if methods else []
    rows = [(name, [_percent(shares[method][i]) for method in methods]) for i, name in enumerate(names)]
    return Zeros(methods, rows)


def _percent(share: float) -> str:
    if share == 0:
        return "0"
    return "< 0.01" if share < 5e-5 else f"{100 * share:.2f}"
