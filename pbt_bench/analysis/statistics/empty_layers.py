"""Empty layers of a method that trains well all the same, as one sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pbt_bench.analysis.statistics.labels import counted, joined, layer_labels, tick_label
from pbt_bench.analysis.statistics.panel import Panel

_LAYERS_NAMED = 3  # empty layers that are named


def empty_layers_sentence(panel: Panel, method: str, sparsities: Sequence[float]) -> str:
    """Describe the empty layers of a method's trained runs at some sparsities; "" if it has none there.

    Runs that collapsed or diverged are no reason to ask how the method can win, and are left out.
    """
    runs = panel.diagnosed
    runs = runs[(runs["method"] == method) & runs["sparsity"].isin(sparsities) & (runs["status"] == "done")]
    empty = [(row["sparsity"], row["layers"].kept == 0) for row in runs[["sparsity", "layers"]].to_dict("records")]
    hit = [(sparsity, layers) for sparsity, layers in empty if layers.any()]
    if not hit:
        return ""
    names = layer_labels(runs["layers"].iloc[0].names)
    of_any = np.flatnonzero(np.any([layers for _, layers in hit], axis=0))
    shown = [names[i] for i in of_any[:_LAYERS_NAMED]]
    more = [f"{len(of_any) - len(shown)} more"] * (len(of_any) > len(shown))
    at = joined([tick_label(sparsity) for sparsity in sorted({sparsity for sparsity, _ in hit})])
    return (
        f"{method} keeps no weight in {len(of_any)} of {counted(len(names), 'layer')} ({joined([*shown, *more])}) in "
        f"{len(hit)} of {counted(len(empty), 'trained run')} at {at}; the others still join input to output."
    )
