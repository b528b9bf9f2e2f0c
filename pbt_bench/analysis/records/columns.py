"""Columnar form of records: an Arrow table with one row per run, and its conversion to a data frame.

Values that repeat across runs (recipe, layer names, versions) are stored once, and numbers are stored in arrays.
100,000 runs take hundreds of megabytes in this form; as one object per layer and epoch they take many gigabytes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Annotated, Any, TypeVar, get_args, get_origin, overload

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pbt_bench.running.record import Epoch, Layer, MaskMetrics, Metrics, Pruning, RunRecord
from pbt_bench.spec import Recipe, RunSpec, Scoring

T = TypeVar("T")
MISSING = "missing"
PER_RUN = (
    "started",
    "seconds",
    "peak_memory_gib",
    "pid",
    "earlier_sessions",
)  # fields of the environment that differ between runs

_RENAMED = {"sparsity": "mask_sparsity"}  # fields of Pruning; the column `sparsity` is the nominal sparsity of the spec
_WORDS = pa.dictionary(pa.int32(), pa.string())
_KINDS = {float: pa.float64(), int: pa.int64(), bool: pa.bool_()}
_STRUCTURE = msgspec.json.Decoder(list[tuple[str, tuple[int, ...], int]])
JSON: dict[str, Callable[[str], Any]] = {  # columns that contain JSON -> their decoders
    "recipe": msgspec.json.Decoder(Recipe).decode,
    "scoring": msgspec.json.Decoder(Scoring).decode,
    "options": msgspec.json.Decoder(dict[str, Any]).decode,
    "update_options": msgspec.json.Decoder(dict[str, Any]).decode,
    "revisions": msgspec.json.Decoder(dict[str, Any]).decode,
    "notes": msgspec.json.Decoder(dict[str, dict[str, float]]).decode,
    "environment": msgspec.json.Decoder(dict[str, Any]).decode,
    "structure": lambda text: _structured(_STRUCTURE.decode(text)),
}
_EPOCH = tuple(field.name for field in msgspec.structs.fields(Epoch))
_OPTIONAL = {field.name for field in msgspec.structs.fields(Epoch) if type(None) in get_args(field.type)}


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause cyclic garbage collection in the block, which creates no cycles.

    Scanning millions of new objects for cycles takes a third of the time.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Rows(Sequence[T]):
    """A sequence that is equal to any sequence of the same items."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # unhashable like a list: the arrays are mutable

    def __repr__(self) -> str:
        return repr(tuple(self))


class Layers(_Rows[Layer]):
    """The layers of one run, equal to a sequence of the same `Layer`; each array has one number per layer."""

    __slots__ = ("kept", "live_units", "names", "prunable", "ramanujan_gaps", "shapes", "zero_scores")

    def __init__(
        self,
        structure: _Structure,
        kept: NDArray[np.int64],
        zero_scores: NDArray[np.int64],
        live_units: NDArray[np.float64],
        ramanujan_gaps: NDArray[np.float64],
    ) -> None:
        self.names, self.shapes, self.prunable = structure
        self.kept, self.zero_scores = kept, zero_scores
        self.live_units, self.ramanujan_gaps = live_units, ramanujan_gaps  # NaN for None

    @property
    def densities(self) -> NDArray[np.float64]:
        """Kept weights divided by prunable weights, for each layer."""
        return self.kept / np.maximum(self.prunable, 1)

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Layer]: ...
    def __getitem__(self, index: int | slice) -> Layer | Sequence[Layer]:
        if isinstance(index, slice):
            return tuple(self)[index]
        return Layer(
            name=self.names[index],
            shape=self.shapes[index],
            prunable=int(self.prunable[index]),
            kept=int(self.kept[index]),
            zero_scores=int(self.zero_scores[index]),
            live_units=None if np.isnan(self.live_units[index]) else int(self.live_units[index]),
            ramanujan_gap=None if np.isnan(self.ramanujan_gaps[index]) else float(self.ramanujan_gaps[index]),
        )

    def __len__(self) -> int:
        return len(self.names)


_Structure = tuple[tuple[str, ...], tuple[tuple[int, ...], ...], NDArray[np.int64]]


class Curve(_Rows[Epoch]):
    """The epochs of one run, equal to a sequence of the same `Epoch`."""

    __slots__ = ("values",)

    def __init__(self, values: NDArray[np.float64]) -> None:
        self.values = values  # (epochs, fields of Epoch), NaN for None

    def column(self, name: str) -> NDArray[np.float64]:
        """Return the values of one field over all epochs, NaN for None."""
        return self.values[:, _EPOCH.index(name)]

    @overload
    def __getitem__(self, index: int) -> Epoch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Epoch]: ...
    def __getitem__(self, index: int | slice) -> Epoch | Sequence[Epoch]:
        if isinstance(index, slice):
            return Curve(self.values[index])
        row: dict[str, Any] = dict(zip(_EPOCH, self.values[index].tolist(), strict=True))
        row |= {name: None for name in _OPTIONAL if row[name] != row[name]}
        return Epoch(**row | {"epoch": int(row["epoch"])})

    def __len__(self) -> int:
        return len(self.values)


_ATTRIBUTES: dict[type[msgspec.Struct], str] = {
    RunSpec: "spec",
    Metrics: "metrics",
    Pruning: "pruning",
    MaskMetrics: "pruning.mask_metrics",
}
_NO_COLUMN = ("layers", "mask_metrics")  # fields of Pruning: several columns each


def _plan() -> dict[str, tuple[pa.DataType, Callable[[RunRecord], Any]]]:
    """Return the type of each column and the function that computes its value from a record."""
    columns: dict[str, tuple[pa.DataType, Callable[[RunRecord], Any]]] = {
        "run_id": (pa.string(), lambda run: run.run_id),
        "status": (_WORDS, lambda run: run.status),
        "error": (pa.string(), lambda run: run.error_line),
        "structure": (_WORDS, lambda run: _structure(run.pruning)),
        "kept_weights": (pa.list_(pa.int64()), lambda run: _of_layers(run.pruning, "kept")),
        "zero_scores": (pa.list_(pa.int64()), lambda run: _of_layers(run.pruning, "zero_scores")),
        "live_units": (pa.list_(pa.float64()), lambda run: _of_layers(run.pruning, "live_units")),
        "ramanujan_gaps": (pa.list_(pa.float64()), lambda run: _of_layers(run.pruning, "ramanujan_gap")),
        "curve": (
            pa.list_(pa.float64()),
            lambda run: [x for epoch in run.curve for x in msgspec.structs.astuple(epoch)],
        ),
        "environment": (_WORDS, lambda run: _json({k: v for k, v in run.environment.items() if k not in PER_RUN})),
        "of_the_run": (pa.string(), lambda run: _json({k: v for k, v in run.environment.items() if k in PER_RUN})),
    }
    for kind, part in _ATTRIBUTES.items():
        columns |= {
            name: (_kind(field), _getter(part, field.name))
            for name, field in _fields(kind).items()
            if name not in _NO_COLUMN
        }
    return columns


def _fields(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """Return the fields of a structure by the names of their columns."""
    renamed = _RENAMED if kind is Pruning else {}
    return {renamed.get(field.name, field.name): field for field in msgspec.structs.fields(kind)}


def _kind(field: msgspec.structs.FieldInfo) -> pa.DataType:
    choices = get_args(field.type) if type(None) in get_args(field.type) else (field.type,)
    plain = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in choices]
    return next((_KINDS[kind] for kind in plain if kind in _KINDS), _WORDS)


def _getter(part: str, name: str) -> Callable[[RunRecord], Any]:
    def get(run: RunRecord) -> Any:
        value: Any = run
        for attribute in (*part.split("."), name):
            value = None if value is None else getattr(value, attribute)
        return _json(value) if name in JSON and value is not None else value

    return get


@lru_cache(maxsize=512)
def _recipe_json(value: Recipe | Scoring) -> str:
    return msgspec.json.encode(value).decode()


def _json(value: Any) -> str:
    return _recipe_json(value) if isinstance(value, (Recipe, Scoring)) else msgspec.json.encode(value).decode()


def _structure(pruning: Pruning | None) -> str | None:
    return _json([(x.name, x.shape, x.prunable) for x in pruning.layers]) if pruning else None


def _of_layers(pruning: Pruning | None, name: str) -> list[Any] | None:
    return [getattr(layer, name) for layer in pruning.layers] if pruning else None


_COLUMNS = _plan()
SCHEMA = pa.schema([(name, kind) for name, (kind, _) in _COLUMNS.items()])


def encode(runs: Iterable[RunRecord | RunSpec]) -> pa.Table:
    """Return a table with one row per run, in the given order; a bare spec is a run without a record (`missing`)."""
    records = [_missing(run) if isinstance(run, RunSpec) else run for run in runs]
    arrays = []
    for kind, get in _COLUMNS.values():
        values = [get(record) for record in records]
        arrays.append(pa.array(values, pa.string()).dictionary_encode() if kind is _WORDS else pa.array(values, kind))
    return pa.table(arrays, schema=SCHEMA)


def _missing(spec: RunSpec) -> RunRecord:
    return RunRecord(run_id=spec.run_id, status=MISSING, spec=spec)  # type: ignore[arg-type]  # never written to a file


@uncollected()
def decode(table: pa.Table) -> pd.DataFrame:
    """Convert an encoded table to the data frame of `load_results`; ignore columns outside SCHEMA."""
    table = table.select(SCHEMA.names).unify_dictionaries().combine_chunks()
    columns: dict[str, Any] = {}
    for name in ("run_id", "status", *_fields(RunSpec)):
        columns[name] = _column(table, name)
    columns["epochs"] = np.array([recipe.epochs for recipe in columns["recipe"]], dtype="int64")
    for kind in (Metrics, Pruning, MaskMetrics):
        names = [name for name in _fields(kind) if name != "mask_metrics"]
        columns |= {name: _layers(table) if name == "layers" else _column(table, name) for name in names}
    curves = [Curve(values.reshape(-1, len(_EPOCH))) for values in _parts(table, "curve")]
    columns["curve"] = _objects(curves)
    shared = _column(table, "environment")
    own = [msgspec.json.decode(text) for text in table["of_the_run"].to_pylist()]
    columns["environment"] = _objects(a | b for a, b in zip(shared, own, strict=True))
    columns["error"] = _column(table, "error")
    # An explicit object dtype keeps pandas from converting text to its string type.
    return pd.DataFrame(
        {name: pd.Series(v, dtype="object" if v.dtype == "O" else v.dtype) for name, v in columns.items()}
    )


def as_layers(layers: Sequence[Layer]) -> Layers:
    """Convert the layers of a record to arrays."""
    structure = _structured([(layer.name, layer.shape, layer.prunable) for layer in layers])
    rows = [(layer.kept, layer.zero_scores, layer.live_units, layer.ramanujan_gap) for layer in layers]
    kept, zero_scores, live_units, gaps = zip(*rows, strict=True) if rows else ((), (), (), ())
    counts = np.array(kept, "int64"), np.array(zero_scores, "int64")
    return Layers(structure, *counts, np.array(live_units, "float64"), np.array(gaps, "float64"))


def as_curve(epochs: Sequence[Epoch]) -> Curve:
    """Convert the epochs of a record to one array."""
    values = [msgspec.structs.astuple(epoch) for epoch in epochs]
    return Curve(np.array(values, dtype="float64").reshape(-1, len(_EPOCH)))


def _column(table: pa.Table, name: str) -> Any:
    kind = SCHEMA.field(name).type
    column = table[name].chunk(0) if table[name].num_chunks else pa.array([], kind)
    if kind == _WORDS:
        words = column.dictionary.to_pylist()
        found = _objects([*map(JSON.get(name, str), words), None])
        return found[column.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)]
    if kind == pa.string() or kind == pa.bool_():
        return _objects(column.to_pylist())
    if kind == pa.int64() and name != "seed":
        return column.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return column.to_numpy(zero_copy_only=False).astype("int64" if name == "seed" else "float64", copy=False)


def _layers(table: pa.Table) -> NDArray[np.object_]:
    arrays = ("kept_weights", "zero_scores", "live_units", "ramanujan_gaps")
    counts = zip(*(_parts(table, name) for name in arrays), strict=True)
    structures = _column(table, "structure")
    return _objects(
        None if found is None else Layers(found, *own) for found, own in zip(structures, counts, strict=True)
    )


def _structured(rows: list[tuple[str, tuple[int, ...], int]]) -> _Structure:
    names, shapes, sizes = zip(*rows, strict=True) if rows else ((), (), ())
    return names, shapes, np.array(sizes, dtype="int64")


def _parts(table: pa.Table, name: str) -> Iterator[NDArray[Any]]:
    """Yield the list of each row as a view of one array; a missing list is empty."""
    column = table[name].combine_chunks()
    values = pa.ListArray.flatten(column).to_numpy(zero_copy_only=False)
    offsets = column.offsets.to_numpy() - column.offsets[0].as_py()
    return (values[start:stop] for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))


def _objects(values: Iterable[Any]) -> NDArray[np.object_]:
    """Return an object array with one element per value, also where the values are sequences."""
    items = list(values)
    found = np.empty(len(items), dtype="object")
    for index, value in enumerate(items):
        found[index] = value
    return found
