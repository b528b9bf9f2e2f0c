"""Digests of what every revision of a method, scope, dataset and model gives, in tests/golden/digests.json.

A digest does not depend on the processor: methods are computed in float64 on one thread and only their masks count, and
of initial weights the signs and the mean magnitude.

    PYTHONPATH=tests .venv/bin/python tests/pruning/test_method_digests.py    # adds the digests of new revisions
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import GOLDEN, batches, golden

import pbt_bench
from pbt_bench.data import datasets, load
from pbt_bench.errors import RequestError
from pbt_bench.models import build, models
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning.masks import pruned_count, quotas
from pbt_bench.pruning.plugins import pruners, scopes

FILE = GOLDEN.with_name("digests.json")
SPARSITIES = (0.5, 0.9)
OPTIONS = {"dpai": {"score_steps": 20}}  # the default of 500 takes 8 s
MODELS = (
    "lenet-300-100", "lenet5", "resnet8", "resnet18", "resnet20", "resnet20-projection", "vgg8", "vgg11-bias",
    "vit-tiny",
)  # fmt: skip
SHAPES = {
    name: {layer: tuple(w.shape) for layer, w in prunable(build(name, 3, 10, 0, size=32)).items()}
    for name in MODELS[:5]
}


def digest(*parts: object) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return found.hexdigest()[:16]


def of_method(name: str) -> str:
    net, x, y, _ = golden()
    data = batches(x.double(), y, 24, 24)
    options = OPTIONS.get(name, {})
    found = [pbt_bench.prune(net.double(), data, method=name, sparsity=each, options=options) for each in SPARSITIES]
    return digest(*(np.packbits(mask.numpy()) for masks in found for mask in masks.values()))


def of_scope(name: str) -> str:
    found: list[object] = []
    for shapes in SHAPES.values():
        total = sum(int(np.prod(shape)) for shape in shapes.values())
        for sparsity in (0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99):
            try:
                found.append(quotas(shapes, total - pruned_count(sparsity, total), name))
            except RequestError:
                found.append("refused")
    return digest(*found)


def of_dataset(name: str) -> str:
    data = load(name, Path("data"))
    arrays = [part.numpy() for images in (data.train, data.test) for part in (images.pixels, images.targets)]
    return digest(*(array.astype("int64") for array in arrays), data.classes)


def of_model(name: str) -> str:
    tensors = build(name, 3, 10, 0, size=32).state_dict()
    return digest(
        *(
            (key, list(tensor.shape), f"{tensor.double().abs().mean():.3g}", tensor.flatten()[:1000].sign().tolist())
            for key, tensor in tensors.items()
        )
    )


def cases() -> dict[str, tuple[int, Callable[[], str]]]:
    """Return revision and digest of everything, by kind and name."""
    found: dict[str, tuple[int, Callable[[], str]]] = {}
    found |= {
        f"method {name!r}": (each.revision, partial(of_method, name))
        for name, each in pruners().items()
        if each.shipped and not each.trains  # a run trains: tests/running/test_imp.py
    }
    found |= {f"scope {n!r}": (each.revision, partial(of_scope, n)) for n, each in scopes().items() if each.function}
    found["dataset 'digits'"] = datasets()["digits"].revision, partial(of_dataset, "digits")
    return found | {f"model {name!r}": (models()[name].revision, partial(of_model, name)) for name in MODELS}


def fault(name: str, revision: int, found: str, known: dict[str, str]) -> str:
    """Return what is wrong with a digest, or ""."""
    if str(revision) not in known:
        return f"revision {revision} of {name} has no digest: add it with python tests/pruning/test_method_digests.py"
    return "" if known[str(revision)] == found else f"raise the revision of {name}, or undo the change"


CASES = cases()
KNOWN: dict[str, dict[str, str]] = json.loads(FILE.read_text()) if FILE.exists() else {}


@pytest.mark.parametrize("name", CASES)
def test_a_change_of_numbers_raises_the_revision(name: str) -> None:
    revision, compute = CASES[name]
    said = fault(name, revision, compute(), KNOWN.get(name, {}))
    assert not said, said


def test_a_change_and_a_revision_without_digest_are_told() -> None:
    known = {"1": "aa", "2": "bb"}
    assert fault("method 'snip'", 2, "bb", known) == ""
    assert fault("method 'snip'", 2, "cc", known) == "raise the revision of method 'snip', or undo the change"
    assert fault("method 'snip'", 3, "cc", known).startswith("revision 3 of method 'snip' has no digest: add it with")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, (revision, compute) in CASES.items():
        KNOWN.setdefault(name, {}).setdefault(str(revision), compute())
    FILE.write_text(json.dumps(KNOWN, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
