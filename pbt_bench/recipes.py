"""Presets: the recipes of published code, by name. A grid selects one with `recipe = "fts-2025"`.

Every value is taken from published code; tests/published_presets.py gives repository, commit, file and line,
and docs/findings.md compares the presets. `snip-2019-paper` follows the text of the paper, which differs from its code.
Published code without a validation split trains on all 50,000 images; the presets keep the default
`validation_fraction`, unless the published code has its own fraction (FTS v1 and MiCA: 10,000 of 50,000 images).
SNIP counts training steps. They are converted to epochs of 352 steps: 45,000 images in batches of 128.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

_SGD = {"epochs": 160, "augment": "crop-flip", "schedule": "multistep", "milestones": [80, 120], "weight_decay": 1e-4}
_FTS = {"batch_size": 512, "gamma": 0.2, "weight_decay": 5e-4}
_FTS_SCORING = {"augment": True, "prune_classifier": False}
_FTS_GRASP = {"grasp": {"temperature": 1.0}}
_FTS_PROBES = {"probes": 10, "probes_per_batch": True}
_GRASP = {"samples_per_class": 10, "batches": 2, "order": "class", "augment": True, "batchnorm": "batch"}
_SNIP = _SGD | {"weight_decay": 5e-4}
_ONE_BATCH = {"samples_per_class": "all", "most_samples": 128}
_SYNFLOW = _SGD | {"nesterov": True, "milestones": [60, 120]}
_SYNFLOW_SCORING = {"samples_per_class": 10, "batch_size": 256, "augment": True}
_MGE_SCORING = _ONE_BATCH | {"augment": True, "batchnorm": "batch"}  # that of SNIP
_FORCE = _SGD | {"epochs": 350, "milestones": [150, 250], "weight_decay": 5e-4}
_FORCE_SCORING = _ONE_BATCH | {"new_batches": True, "augment": True, "batchnorm": "batch"}


class Preset(NamedTuple):
    """The settings of published code: tables of a grid file."""

    recipe: Mapping[str, Any]
    scoring: Mapping[str, Any] = MappingProxyType({})
    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({})  # method -> its options


PRESETS: Mapping[str, Preset] = {
    "fts-2025": Preset(
        _SGD | _FTS | {"learning_rate": 0.01, "milestones": [60, 120], "validation_fraction": 0.2},
        _FTS_SCORING | {"samples_per_class": "all"},
        _FTS_GRASP,
    ),
    "fts-2025-v2": Preset(  # 160 epochs: the published 5 contradict the published milestones, 80 and 120
        _SGD | _FTS | {"learning_rate": 0.03},
        _FTS_SCORING | {"samples_per_class": 10, "batch_size": 1},
        _FTS_GRASP
        | {"hts": _FTS_PROBES}
        | {name: _FTS_PROBES | {"signed": True} for name in ("hutchinson_diagonal", "hutchinson_pruning")},
    ),
    "synflow-2020": Preset(_SYNFLOW, _SYNFLOW_SCORING),
    "grasp-2020-vgg": Preset(_SGD | {"weight_decay": 5e-4}, _GRASP),
    "grasp-2020-resnet": Preset(_SGD, _GRASP),
    "snip-2019": Preset(_SNIP | {"epochs": 426, "milestones": [85, 170, 256, 341], "gamma": 0.2}, _ONE_BATCH),
    "snip-2019-paper": Preset(_SNIP | {"epochs": 250, "milestones": [85, 170]}, _ONE_BATCH),
    "force-2021": Preset(_FORCE, _FORCE_SCORING),
    "force-2021-cifar100": Preset(_FORCE, _FORCE_SCORING | {"most_samples": 10 * 128}),
    "force-2021-tiny-imagenet": Preset(
        _FORCE | {"epochs": 300, "milestones": [150, 225]},
        _FORCE_SCORING | {"most_samples": 20 * 128},
    ),
    "prospr-2022": Preset(
        _SGD | {"epochs": 200, "batch_size": 256, "milestones": [100, 150], "weight_decay": 5e-4},
        _ONE_BATCH | {"augment": True, "batchnorm": "batch"},
    ),
    "ntk-sap-2023": Preset(_SGD, {"samples_per_class": 10, "batch_size": 256, "augment": True, "batchnorm": "batch"}),
    "mge-snn-2024": Preset(_SGD, _MGE_SCORING),
    "mge-snn-2024-wrn": Preset(_SGD | {"weight_decay": 5e-4}, _MGE_SCORING),
    "mica-2024": Preset(  # of ResNets
        _SYNFLOW | {"learning_rate": 0.01, "gamma": 0.2, "weight_decay": 5e-4, "validation_fraction": 0.2},
        _SYNFLOW_SCORING,
    ),
    "mica-2024-vgg": Preset(_SYNFLOW | {"validation_fraction": 0.2}, _SYNFLOW_SCORING),
    "openlth-2020": Preset(_SGD),
    "openlth-2020-vgg": Preset(_SGD, {"prune_classifier": False}),
}
