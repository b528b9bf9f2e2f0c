"""Export of finished records to CSV, TensorBoard and Weights & Biases."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pbt_bench.errors import RequestError, spreadsheet_text
from pbt_bench.running.matching import find_others
from pbt_bench.running.record import Epoch, RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec

Figures = Mapping[str, NDArray[np.uint8]]  # name -> RGBA values, [height, width, 4]
_OMITTED = {"curve", "error", "format", "revisions", "pruning.layers", "pruning.notes"}


def finished_records(specs: Sequence[RunSpec], store: Store) -> list[RunRecord]:
    """Return the records of runs that are done, diverged or collapsed; superseded records are left out."""
    wanted = {spec.run_id: spec for spec in specs}
    find_others(store, wanted)
    return [record for record in store.records(wanted) if record.status != "failed"]


def write_csv(records: Sequence[RunRecord], file: Path) -> Path:
    """Write a line per run to `file`, and a line per run and epoch to NAME_curves.csv, whose path is returned.

    The columns are the fields of a record with their tables, such as `spec.recipe.epochs`. Lists are JSON.
    """
    curves = file.with_name(f"{file.stem}_curves{file.suffix or '.csv'}")
    epochs = ({"run_id": each.run_id} | msgspec.to_builtins(row) for each in records for row in each.curve)
    try:
        _write_lines(file, [dict(_cells(msgspec.to_builtins(record))) for record in records])
        _write_lines(curves, list(epochs), ["run_id", *Epoch.__struct_fields__])
    except OSError as error:
        raise RequestError(f"{error.filename}: cannot be written: {error.strerror}") from None
    return curves


def _write_lines(file: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str] = ()) -> None:
    columns = columns or list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", newline="", encoding="utf-8") as opened:
        lines = csv.DictWriter(opened, columns, lineterminator="\n")
        lines.writeheader()
        lines.writerows(
            {name: spreadsheet_text(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
            for row in rows
        )


def _cells(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every field that a table of runs has as a column."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if name in _OMITTED:
            continue
        if isinstance(value, dict):
            yield from _cells(value, f"{name}.")
        else:
            yield name, msgspec.json.encode(value).decode() if isinstance(value, (list, tuple)) else value


def write_tensorboard(records: Sequence[RunRecord], folder: Path, figures: Figures | None = None) -> int:
    """Write a folder per run with its curve, results and specification, and return the number of runs that were new.

    A run whose folder exists is left as it is. `figures` are written to a folder of that name.
    """
    writer = _optional("torch.utils.tensorboard", "tensorboard").SummaryWriter
    new = 0
    for record in records:
        path = folder / re.sub(r"[^\w.,()-]+", "_", f"{record.spec.label} {record.run_id}")
        if path.exists():
            continue
        new += 1
        with writer(str(path)) as events:
            for step, values in _points(record):
                for name, value in values.items():
                    events.add_scalar(name, value, step)
            cells = _cells(msgspec.to_builtins(record.spec))
            settings = {name: value for name, value in cells if isinstance(value, (bool, int, float, str))}
            events.add_hparams(settings, _results(record), run_name=".")
    if figures:
        with writer(str(folder / "figures")) as events:
            for name, image in figures.items():
                events.add_image(name, image, dataformats="HWC")
    return new


def write_wandb(records: Sequence[RunRecord], folder: Path, project: str, figures: Figures | None = None) -> int:
    """Write an offline run of Weights & Biases per record, and return their number; `wandb sync` uploads them.

    `figures` are a run of that name.
    """
    library = _optional("wandb", "wandb")
    folder.mkdir(parents=True, exist_ok=True)
    for record in records:
        settings = dict(_cells(msgspec.to_builtins(record.spec)))
        run = library.init(
            mode="offline", dir=str(folder), project=project, id=record.run_id, name=record.spec.label, config=settings
        )
        for step, values in _points(record):
            run.log(values, step=step)
        run.summary.update({"status": record.status} | _results(record))
        run.finish()
    if figures:
        run = library.init(mode="offline", dir=str(folder), project=project, id=f"{project}-figures", name="figures")
        run.log({name: library.Image(image) for name, image in figures.items()})
        run.finish()
    return len(records)


def _points(record: RunRecord) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the number and the values of every epoch."""
    for row in record.curve:
        values = msgspec.to_builtins(row)
        step = values.pop("epoch")
        yield step, {name: value for name, value in values.items() if value is not None}


def _results(record: RunRecord) -> dict[str, float]:
    """Return the metrics and the numbers of the pruning."""
    tables = {"metrics": record.metrics, "pruning": record.pruning}
    cells = _cells({name: msgspec.to_builtins(table) for name, table in tables.items()})
    return {name: float(value) for name, value in cells if isinstance(value, (int, float))}


def _optional(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise RequestError(f"this export needs the package {package}: pip install {package}") from None
