"""Mask files in safetensors format, and the masks of a run of a results folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from pbt_bench.errors import RequestError, printable, reason
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store, select


def save_masks(
    path: str | Path,
    masks: Mapping[str, Tensor],
    *,
    method: str | None = None,
    sparsity: float | None = None,
    source: str | None = None,
) -> None:
    """Write masks to a file in safetensors format: one bool tensor per parameter name, True = kept.

    `method`, `sparsity` and `source`, a description of the origin of the masks, become texts of its metadata. Equal
    arguments give equal bytes. Raises RequestError if the masks are not bool tensors, and if the file cannot be
    written.
    """
    if not isinstance(masks, Mapping):
        raise RequestError(f"masks are {type(masks).__name__}, not a mapping from parameter names to bool tensors")
    for name, mask in masks.items():
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            found = str(mask.dtype) if isinstance(mask, Tensor) else type(mask).__name__
            raise RequestError(f"mask of {name}: {found}, expected torch.bool")
    about = {"method": method, "sparsity": sparsity, "source": source}
    metadata = {name: str(value) for name, value in about.items() if value is not None}
    arrays = {str(name): np.ascontiguousarray(mask.detach().cpu().numpy()) for name, mask in masks.items()}
    path = Path(path)
    try:
        Store.put(path, _with_sorted_metadata(save(arrays, metadata or None)))
    except OSError as error:
        raise RequestError(f"{path}: masks cannot be written: {error.strerror or error}") from None


def _with_sorted_metadata(content: bytes) -> bytes:
    """Return the content of a file with its metadata sorted: safetensors writes them in random order."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    if metadata := header.get("__metadata__"):
        header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # data start at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[end:]


def load_masks(path: str | Path, run_id: str | None = None) -> dict[str, Tensor]:
    """Return the masks in a file of `save_masks`, or those of a run of a results folder.

    With `run_id`, or its first digits, `path` is a results folder such as results/digits, or a packed file. The masks
    are bool tensors on the CPU. Raises RequestError, in one line, for a missing or damaged file, for tensors that are
    not masks, and for a run without masks.
    """
    path = Path(path)
    if run_id is not None:
        ((store, record),) = select([Store(path)], run_id, f"{path}/runs")
        return run_masks(store, record)
    if not path.is_file():  # a pipe would block
        what = "a results folder: give the id of a run too" if path.is_dir() else "not a file"
        raise RequestError(f"{path}: {what}")
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it has no iterator)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RequestError(f"{path}: not a safetensors file: {printable(reason(error))}") from None
    return {name: _checked(array, f"{path}: {printable(name)}") for name, array in arrays.items()}


def _checked(array: NDArray[np.generic], where: str) -> Tensor:
    """Return a tensor. Raises RequestError unless it is a bool array whose bytes are 0 and 1."""
    if array.dtype != np.bool_:
        raise RequestError(f"{where} is {array.dtype}, not a mask")
    if (array.reshape(-1).view(np.uint8) > 1).any():
        raise RequestError(f"{where} is damaged: it has a value that is neither true nor false")
    return torch.from_numpy(array.copy())


def run_masks(store: Store, record: RunRecord) -> dict[str, Tensor]:
    """Return the masks of a run. Raises RequestError if it has none, or if they are damaged."""
    masks = store.read_masks(record)
    if masks is None:
        why = "are missing or damaged" if record.pruning else f"do not exist: it {record.status}"
        raise RequestError(f"run {record.run_id} of {store.folder}: its masks {why}")
    return {name: torch.from_numpy(mask.copy()) for name, mask in masks.items()}


def export_masks(store: Store, record: RunRecord, path: Path) -> dict[str, Tensor]:
    """Write the masks of a run to a file that names the run, and return them."""
    masks = run_masks(store, record)
    spec = record.spec
    source = f"run {record.run_id} of {store.folder.name}: {spec.label}"
    save_masks(path, masks, method=spec.variant, sparsity=spec.sparsity, source=source)
    return masks
