"""Encoding of the runs for the script of the report's page: dictionary columns, curves and layers as number lists.

The data is gzipped and base64-encoded, so that no name or error message can end the script element that contains it.
"""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import Hashable, Iterable
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from pbt_bench.analysis.records.columns import Curve, Layers
from pbt_bench.analysis.statistics.panel import Panel
from pbt_bench.errors import printable

MOST_DETAILED = 12_000  # runs; a larger page would exceed 15 MB, so it omits curves and layers (see `pbt-bench show`)
_MOST_POINTS = 40  # epochs per curve; longer curves are subsampled and keep their last epoch

_REPEATED = ("status", "dataset", "model", "method", "setting", "host")
_NUMBERS = {  # column of the table -> number of decimals
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
    """Return gzipped JSON in base64, with one entry per row of `table`.

    `words` has the distinct values of each text column, and `columns` has indices into them. Numbers are rounded; a
    missing number is null. `curves` has `[epochs, loss, validation loss, accuracy, validation accuracy]` per run.
    `layers` has `[index into structures, kept weights of each layer]` per run, and `structures` has the layers' names
    and sizes. `curves` and `layers` are null for more than MOST_DETAILED runs.
    """
    setting = pd.Series("", index=table.index, dtype="object")
    for panel in parts:
        setting.loc[panel.runs.index] = panel.setting
    hosts = pd.Series([str(environment.get("host", "")) for environment in table["environment"]], index=table.index)
    texts = table.assign(setting=setting, host=hosts)
    columns: dict[str, list[Any]] = {"run": list(table["run_id"])}
    words = {}
    for name in _REPEATED:
        codes, found = pd.factorize(texts[name], sort=True)
        columns[name], words[name] = codes.tolist(), [printable(str(word)) for word in found]
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
    """Round numbers for compact JSON: integers without a fraction, NaN as null."""
    return [
        None if value != value else int(value) if value.is_integer() else value
        for value in np.round(values, decimals).tolist()
    ]


def _curve(curve: Curve) -> list[list[float | int | None]] | None:
    if not len(curve):
        return None
    step = -(-len(curve) // _MOST_POINTS)
    return [_rounded(curve.column(name)[::-step][::-1], 4) for name in _CURVE]  # counted from the last epoch


def _layers(layers: Layers | None, structures: dict[Hashable, int]) -> list[Any] | None:
    """Return the index of the layers' structure and their kept weights; add a new structure to `structures`."""
    if layers is None:
        return None
    structure = (layers.names, tuple(layers.prunable.tolist()))
    return [structures.setdefault(structure, len(structures)), layers.kept.tolist()]
