"""The runs as the page's browser reads them: columns with dictionaries, curves and layers as plain number lists.

Gzip and base64, so that no name or error in it can ever end the script element that carries it.
"""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import Hashable, Iterable
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from pbt_bench.analysis.columns import Curve, Layers
from pbt_bench.analysis.summary import Panel

MOST_DETAILED = 12_000  # runs; above it a page would pass 15 MB, and curves and layers are left to `pbt-bench show`
_MOST_POINTS = 40  # epochs of one curve; longer ones are thinned, the last epoch always stays

_WORDS = ("status", "dataset", "model", "method", "setting", "host")
_NUMBERS = {  # column of the table -> decimals
    "sparsity": 6,
    "seed": 0,
    "test_accuracy": 4,
    "validation_accuracy": 4,
    "realised_sparsity": 6,
    "effective_sparsity": 6,
    "collapsed_layers": 0,
    "scoring_seconds": 3,
}
_CURVE = ("epoch", "train_loss", "validation_loss", "train_accuracy", "validation_accuracy")


def run_data(table: pd.DataFrame, parts: Iterable[Panel]) -> str:
    """Base64 of gzipped JSON: one entry per row of `table`.

    `words` holds the distinct texts of each text column and `columns` indices into them; numbers are rounded, null
    where a run has none. `curves` is per run `[epochs, loss, validation loss, accuracy, validation accuracy]`;
    `layers` is `[structure, kept weights of each layer]` with `structures` the names and sizes. Both are null above
    MOST_DETAILED.
    """
    setting = pd.Series("", index=table.index, dtype="object")
    for panel in parts:
        setting.loc[panel.runs.index] = panel.setting
    hosts = pd.Series([str(place.get("host", "")) for place in table["environment"]], index=table.index)
    texts = table.assign(setting=setting, host=hosts)
    columns: dict[str, list[Any]] = {"run": list(table["run_id"])}
    words = {}
    for name in _WORDS:
        codes, found = pd.factorize(texts[name], sort=True)
        columns[name], words[name] = codes.tolist(), [str(word) for word in found]
    for name, decimals in _NUMBERS.items():
        columns[name] = _rounded(table[name].astype("float64").to_numpy(), decimals)
    detailed = len(table) <= MOST_DETAILED
    structures: dict[Hashable, int] = {}
    data = {
        "columns": columns,
        "words": words,
        "errors": {i: error for i, error in enumerate(table["error"]) if isinstance(error, str)},
        "curves": [_curve(curve) for curve in table["curve"]] if detailed else None,
        "layers": [_layers(layers, structures) for layers in table["layers"]] if detailed else None,
        "structures": list(structures),
    }
    return b64encode(gzip.compress(msgspec.json.encode(data), compresslevel=6, mtime=0)).decode()


def _rounded(values: np.ndarray, decimals: int) -> list[float | int | None]:
    """Numbers as short as JSON writes them: whole ones without a fraction, NaN as null."""
    return [
        None if value != value else int(value) if value.is_integer() else value
        for value in np.round(values, decimals).tolist()
    ]


def _curve(curve: Curve) -> list[list[float | int | None]] | None:
    if not len(curve):
        return None
    step = -(-len(curve) // _MOST_POINTS)
    return [_rounded(curve.column(name)[::-step][::-1], 4) for name in _CURVE]  # from the last epoch backwards


def _layers(layers: Layers | None, structures: dict[Hashable, int]) -> list[Any] | None:
    """The kept weights, and which of `structures` (grown here) they belong to."""
    if layers is None:
        return None
    structure = (layers.names, tuple(layers.prunable.tolist()))
    return [structures.setdefault(structure, len(structures)), layers.kept.tolist()]
