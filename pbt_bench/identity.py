"""Run ids: a digest of the canonical JSON of a run.

The canonical JSON has sorted keys and no white space. It contains every field of format 1 (version 0.1), and a later
field only where its value differs from its default. Adding a field therefore changes no existing run id. Options that
format 1 had as fields of `scoring` stand there in the canonical JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec

FORMAT_1 = {
    "RunSpec": "dataset model method sparsity seed scope sanity warmup rewind init protocol recipe scoring",
    "Recipe": "epochs optimizer learning_rate momentum nesterov weight_decay schedule milestones gamma warmup_epochs "
    "batch_size augment crop_padding label_smoothing precision validation_fraction split_seed threads "
    "test_every_epoch execution",
    "Scoring": "samples_per_class most_samples batch_size chunk fisher_batch_size augment prune_classifier batchnorm "
    "rounds",
}
# Raised when numbers change on purpose:
TRAINING_REVISION = 1  # of the training procedure
ORIGINAL_REVISION = 2  # of the settings of published code, for protocol = "original"
_HUTCHINSON = ("hts", "hutchinson_diagonal", "hutchinson_pruning")
# Fields of Scoring in format 1 that are options now: default, and the methods that read them.
OPTIONS_OF_FORMAT_1: dict[str, tuple[Any, tuple[str, ...]]] = {
    "temperature": (200.0, ("grasp",)),
    "curvature": ("hutchinson", _HUTCHINSON),
    "probes": (100, _HUTCHINSON),
    "probe_tolerance": (None, _HUTCHINSON),
    "perturbations": (5, ("ntk_sap",)),
    "perturbation_scale": (0.01, ("ntk_sap",)),
    "inner_steps": (3, ("prospr",)),
    "inner_learning_rate": (0.1, ("prospr",)),
    "inner_momentum": (0.0, ("prospr",)),
}
# Later fields of Scoring, before version 0.2, that are options now.
LATER_OPTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "probes_per_batch": (False, _HUTCHINSON),
    "signed": (False, _HUTCHINSON[1:]),
}
_CANONICAL_PARTS: dict[tuple[type, bytes], dict[str, Any]] = {}
_MOST_CANONICAL_PARTS = 1000  # kept in memory: about 1 kB each


def run_id(spec: msgspec.Struct) -> str:
    """Return the first 16 hex digits of the SHA-256 of the canonical JSON of `spec`."""
    return hashlib.sha256(canonical_json(spec)).hexdigest()[:16]


def canonical_json(spec: msgspec.Struct) -> bytes:
    """Return the canonical JSON of `spec`."""
    table = _canonical(spec)
    if "scoring" in table:
        options = dict(table.pop("options", {}))
        for name, (default, methods) in OPTIONS_OF_FORMAT_1.items():
            table["scoring"][name] = options.pop(name, default) if table["method"] in methods else default
        if options:
            table["options"] = options
    return msgspec.json.encode(table, order="sorted")


def written_id(table: Any, kind: type[msgspec.Struct]) -> str:
    """Return the run id that format 1 gave to the plain data of a run of `kind`; "" if they are no such data.

    Fields of `scoring` that are options now count, whether or not the method reads them.
    """
    try:
        found = {
            name: {
                key: item
                for key, always, default in (*_format_fields(type(standard)), *_former_fields(name))
                if key in value and ((item := value[key]) != default or always)
            }
            if isinstance(standard, msgspec.Struct)
            else value
            for name, always, standard in _format_fields(kind)
            if always or table.get(name, standard) != standard
            for value in (table[name],)
        }
    except (AttributeError, KeyError, TypeError):
        return ""
    return hashlib.sha256(msgspec.json.encode(found, order="sorted")).hexdigest()[:16]


def _former_fields(name: str) -> Iterator[tuple[str, bool, Any]]:
    """Yield the fields of the part `name` of a run that are options now, as `_format_fields` does."""
    if name == "scoring":
        yield from ((key, True, default) for key, (default, _) in OPTIONS_OF_FORMAT_1.items())
        yield from ((key, False, default) for key, (default, _) in LATER_OPTIONS.items())


def with_options(table: Any) -> Any:
    """Return the plain data of a run with the options that format 1 had in `scoring` where they are now.

    An option that the method does not read is left out: it changes nothing. Nor does any with the settings of published
    code.
    """
    if not isinstance(table, dict) or not all(isinstance(table.get(key, {}), dict) for key in ("scoring", "options")):
        return table
    scoring, options = dict(table.get("scoring", {})), dict(table.get("options", {}))
    for name, (default, methods) in (OPTIONS_OF_FORMAT_1 | LATER_OPTIONS).items():
        read = table.get("method") in methods and table.get("protocol") != "original"
        if name in scoring and (value := scoring.pop(name)) != default and read:
            options[name] = value
    return table | {"scoring": scoring} | ({"options": options} if options else {})


def _canonical(struct: msgspec.Struct) -> dict[str, Any]:
    found = {}
    for name, always, default in _format_fields(type(struct)):
        value = getattr(struct, name)
        if always or value != default:
            found[name] = dict(_canonical_part(value)) if isinstance(value, msgspec.Struct) else value
    return found


def _canonical_part(struct: msgspec.Struct) -> dict[str, Any]:
    """Return `_canonical(struct)`, computed once for the recipe and scoring that the runs of a study share."""
    key = type(struct), msgspec.json.encode(struct)  # equal structures may have different JSON: 0.0 and -0.0
    if (found := _CANONICAL_PARTS.get(key)) is None:
        if len(_CANONICAL_PARTS) >= _MOST_CANONICAL_PARTS:
            _CANONICAL_PARTS.clear()
        found = _CANONICAL_PARTS[key] = _canonical(struct)
    return found


@cache
def _format_fields(struct: type[msgspec.Struct]) -> list[tuple[str, bool, Any]]:
    """Return (name, whether it is a field of format 1, default) of each field."""
    always = FORMAT_1[struct.__name__].split()
    return [
        (field.name, field.name in always, {} if field.default is msgspec.NODEFAULT else field.default)
        for field in msgspec.structs.fields(struct)
    ]
