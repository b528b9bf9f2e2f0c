"""Records that cannot be compared with the others of their network, which a report names and leaves out."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from pbt_bench.analysis.records.columns import Layers
from pbt_bench.analysis.statistics.labels import counted

_NETWORK = ["dataset", "model", "recipe", "scoring"]  # runs with these in common have the same layers


def odd_records(table: pd.DataFrame) -> dict[str, str]:
    """Return the reason to leave out a record, by run id, in the order of the rows.

    A record is odd if it has no prunable weight, or if its layers differ in name or size from those of most records of
    the same dataset, model, recipe and scoring. Of equally frequent layers, those of the first row count. With the
    settings of published code, the method decides whether the classifier is prunable.
    """
    found = {}
    diagnosed = table[table["layers"].notna()]
    own_settings = diagnosed["method"].where(diagnosed["protocol"] == "original", "")
    for network, runs in diagnosed.groupby([*(diagnosed[name] for name in _NETWORK), own_settings], sort=False):
        structures = [_structure(layers) for layers in runs["layers"]]
        ranked = Counter(each for each in structures if sum(each[1])).most_common(1)
        usual, number = ranked[0] if ranked else (((), ()), 0)
        for run_id, own in zip(runs["run_id"], structures, strict=True):
            if not sum(own[1]):
                found[run_id] = "it has no prunable weight"
            elif own != usual:
                other = " of other names or sizes" * (len(own[0]) == len(usual[0]))
                most = f"{counted(number, 'run')} of {network[0]} / {network[1]} {'have' if number > 1 else 'has'}"
                found[run_id] = f"it has {counted(len(own[0]), 'layer')}{other}; {most} {len(usual[0])}"
    return found


def _structure(layers: Layers) -> tuple[tuple[str, ...], tuple[int, ...]]:
    return layers.names, tuple(layers.prunable.tolist())
