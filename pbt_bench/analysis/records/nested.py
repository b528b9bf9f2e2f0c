"""Columns of objects, such as recipes and layers, that pandas can also hash and save.

An element is the object itself: `frame.recipe.iloc[0].epochs`, `frame.layers.iloc[0].kept`. Files and comparisons use
its JSON text.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Self

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pandas.api.extensions import ExtensionArray, ExtensionDtype, take

from pbt_bench.analysis.records.columns import JSON, as_curve, as_layers
from pbt_bench.running.record import Epoch, Layer

_DECODERS: dict[str, Callable[[str], Any]] = {
    **{name: decode for name, decode in JSON.items() if name != "structure"},
    "layers": lambda text: as_layers(msgspec.json.decode(text, type=list[Layer])),
    "curve": lambda text: as_curve(msgspec.json.decode(text, type=list[Epoch])),
}


class NestedType(ExtensionDtype):
    """The type of a column of objects. Its name is that of pandas' objects, with which every program reads files."""

    name = "object"
    type = object
    na_value = None

    @classmethod
    def construct_array_type(cls) -> builtins.type[Nested]:
        """Return the class of the arrays."""
        return Nested


class Nested(ExtensionArray):
    """An array of objects, None where one is missing; equal objects have equal JSON texts."""

    def __init__(self, values: NDArray[np.object_]) -> None:
        self._values = values

    @classmethod
    def _from_sequence(cls, scalars: Iterable[Any], *, dtype: object = None, copy: bool = False) -> Self:
        items = list(scalars)
        values = np.empty(len(items), dtype="object")
        for index, item in enumerate(items):  # numpy would take an array of sequences apart
            values[index] = item
        return cls(values)

    @classmethod
    def _from_factorized(cls, values: NDArray[np.object_], original: Nested) -> Self:
        objects = dict(zip(original.texts(), original._values, strict=True))
        return cls._from_sequence(objects[text] for text in values)

    @classmethod
    def _concat_same_type(cls, to_concat: Sequence[Self]) -> Self:
        return cls(np.concatenate([each._values for each in to_concat]))

    @property
    def dtype(self) -> NestedType:
        """The type of the column."""
        return NestedType()

    @property
    def nbytes(self) -> int:
        """The bytes of the references, without the objects."""
        return int(self._values.nbytes)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, item: Any) -> Any:
        found = self._values[pd.api.indexers.check_array_indexer(self, item)]
        return type(self)(found) if isinstance(found, np.ndarray) else found

    def __setitem__(self, key: Any, value: Any) -> None:
        self._values[pd.api.indexers.check_array_indexer(self, key)] = value

    def __eq__(self, other: object) -> NDArray[np.bool_]:  # type: ignore[override]
        others = other if isinstance(other, (Nested, list)) else [other] * len(self)
        return np.array([mine == its for mine, its in zip(self, others, strict=True)], dtype=bool)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.object_]:
        return self._values.copy() if copy else self._values

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        return pa.array(self.texts(), type or pa.string())

    def isna(self) -> NDArray[np.bool_]:
        """Return where an object is missing."""
        return np.array([value is None for value in self._values], dtype=bool)

    def take(self, indices: Any, *, allow_fill: bool = False, fill_value: Any = None) -> Self:
        """Return the elements at positions; with `allow_fill`, -1 is a missing one."""
        found = np.asarray(take(self._values, indices, allow_fill=allow_fill, fill_value=fill_value))
        if allow_fill:
            found[np.asarray(indices) == -1] = None  # pandas fills with NaN
        return type(self)(found)

    def copy(self) -> Self:
        """Return a copy with the same objects."""
        return type(self)(self._values.copy())

    def _values_for_factorize(self) -> tuple[NDArray[np.object_], None]:
        return np.array([*self.texts(), None], dtype="object")[:-1], None

    def texts(self) -> list[str | None]:
        """Return the JSON text of each object, None for a missing one."""
        return [None if value is None else msgspec.json.encode(value, enc_hook=list).decode() for value in self._values]


def as_nested(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with its columns of objects as columns that pandas can hash and save."""
    return table.assign(**{name: Nested(table[name].to_numpy()) for name in _DECODERS if name in table})


def as_objects(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with plain columns of objects, also if it was saved to a file and read from it."""
    columns = {name: table[name].astype("object") for name in _DECODERS if name in table}
    for name, column in columns.items():
        if any(isinstance(value, str) for value in column):
            decode = cache(_DECODERS[name])
            found = Nested._from_sequence(decode(value) if isinstance(value, str) else None for value in column)
            columns[name] = pd.Series(np.asarray(found), index=table.index, dtype="object")
    return table.assign(**columns)
