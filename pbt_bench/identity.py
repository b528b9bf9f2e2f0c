"""Run ids: a digest of the canonical JSON of a run.

The canonical JSON has sorted keys and no white space. It contains every field of format 1 (version 0.1), and a later
field only where its value differs from its default. Adding a field therefore changes no existing run id.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import msgspec

FORMAT_1 = {
    "RunSpec": "dataset model method sparsity seed scope sanity warmup rewind init protocol recipe scoring",
    "Recipe": "epochs optimizer learning_rate momentum nesterov weight_decay schedule milestones gamma warmup_epochs "
    "batch_size augment crop_padding label_smoothing precision validation_fraction split_seed threads "
    "test_every_epoch execution",
    "Scoring": "samples_per_class most_samples batch_size chunk fisher_batch_size augment prune_classifier batchnorm "
    "temperature curvature probes probe_tolerance perturbations perturbation_scale inner_steps inner_learning_rate "
    "inner_momentum rounds",
}


def run_id(spec: msgspec.Struct) -> str:
    """Return the first 16 hex digits of the SHA-256 of the canonical JSON of `spec`."""
    return hashlib.sha256(canonical_json(spec)).hexdigest()[:16]


def canonical_json(spec: msgspec.Struct) -> bytes:
    """Return the canonical JSON of `spec`."""
    return msgspec.json.encode(_canonical(spec), order="sorted")


def _canonical(struct: msgspec.Struct) -> dict[str, Any]:
    found = {}
    for name, always, default in _format_fields(type(struct)):
        value = getattr(struct, name)
        if always or value != default:
            found[name] = _canonical(value) if isinstance(value, msgspec.Struct) else value
    return found


@cache
def _format_fields(struct: type[msgspec.Struct]) -> list[tuple[str, bool, Any]]:
    """Return (name, whether it is a field of format 1, default) of each field."""
    always = FORMAT_1[struct.__name__].split()
    return [(field.name, field.name in always, field.default) for field in msgspec.structs.fields(struct)]
