"""State files: the weights from which a run with init = "pretrained FILE" starts."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pbt_bench.errors import RequestError, printable, reason, shortened
from pbt_bench.models.prunable import prunable

_STATE_KEYS = ("state_dict", "model")  # keys under which training scripts save the state of a model


def read_state(path: Path) -> Mapping[str, Any]:
    """Return the state dict in a file of `torch.save` or safetensors. No code of the file is executed.

    Raises RequestError, in one line, if the file is missing or damaged.
    """
    if not path.is_file():
        raise RequestError(f"{path}: no such state file (its name is relative to the data folder)")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise RequestError(f"{path}: not a state file: damaged, or with objects other than tensors") from None
    except Exception as error:  # of many types, for a damaged file
        raise RequestError(f"{path}: not a state file: {printable(reason(error))}") from None
    for name in _STATE_KEYS:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict):
        raise RequestError(f"{path}: a {type(state).__name__}, not the state dict of a model")
    return state


def load_state(network: nn.Module, state: Mapping[str, Any], where: str) -> None:
    """Copy a state into a network, except for a classifier that is absent or has another number of classes.

    Raises RequestError, which starts with `where`, if any other tensor is missing, unknown or of another shape.
    """
    own = network.state_dict()
    (classifier,) = prunable(network).keys() - prunable(network, prune_classifier=False).keys() or {""}
    fits = {name for name in own if isinstance(value := state.get(name), Tensor) and value.shape == own[name].shape}
    of_classifier = {name for name in own if classifier and name.startswith(classifier.rpartition(".")[0] + ".")}
    wrong = [name for name in own if name not in fits | of_classifier]
    unknown = [str(name) for name in state if name not in own]
    if wrong or unknown:
        parts = [f"missing or of another shape: {shortened(wrong)}"] if wrong else []
        parts += [f"unknown: {printable(shortened(unknown))}"] if unknown else []
        raise RequestError(f"{where}: it does not fit the model; {'; '.join(parts)}")
    network.load_state_dict(own | {name: state[name] for name in fits})


def state_digest(init: str, folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the state file that `init` names as `initial_weights`, or nothing if there is none."""
    _, _, name = init.partition(" ")
    try:
        return {"initial_weights": hashlib.sha256((folder / name).read_bytes()).hexdigest()} if name else {}
    except OSError:  # the run has failed for this reason
        return {}
