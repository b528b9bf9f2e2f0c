"""Presets: the recipes of published code, by name. A grid selects one with `recipe = "fts-2025"`.

Every value is taken from published code; tests/published_presets.py gives repository, commit, file and line,
and docs/findings.md compares the presets. `snip-2019-paper` follows the text of the paper, which differs from its code.
Published code without a validation split trains on all 50,000 images; the presets keep the default
`validation_fraction`, unless the published code has its own fraction (FTS v1: 10,000 of 50,000 images).
SNIP counts training steps. They are converted to epochs of 352 steps: 45,000 images in batches of 128.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SGD = {"epochs": 160, "augment": "crop-flip", "schedule": "multistep", "milestones": [80, 120], "weight_decay": 1e-4}
_FTS = {"batch_size": 512, "gamma": 0.2, "weight_decay": 5e-4}
_FTS_SCORING = {"augment": True, "prune_classifier": False, "temperature": 1.0}
_GRASP = {"samples_per_class": 10, "batches": 2, "order": "class", "augment": True, "batchnorm": "batch"}
_SNIP = _SGD | {"weight_decay": 5e-4}
_ONE_BATCH = {"samples_per_class": "all", "most_samples": 128}
_FORCE = _SGD | {"epochs": 350, "milestones": [150, 250], "weight_decay": 5e-4}
_FORCE_SCORING = _ONE_BATCH | {"new_batches": True, "augment": True, "batchnorm": "batch"}

PRESETS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {  # name: ([recipe], [scoring])
    "fts-2025": (
        _SGD | _FTS | {"learning_rate": 0.01, "milestones": [60, 120], "validation_fraction": 0.2},
        _FTS_SCORING | {"samples_per_class": "all"},
    ),
    "fts-2025-v2": (  # 160 epochs: the published 5 contradict the published milestones, 80 and 120
        _SGD | _FTS | {"learning_rate": 0.03},
        _FTS_SCORING
        | {"samples_per_class": 10, "batch_size": 1, "probes": 10, "probes_per_batch": True, "signed": True},
    ),
    "synflow-2020": (
        _SGD | {"nesterov": True, "milestones": [60, 120]},
        {"samples_per_class": 10, "batch_size": 256, "augment": True},
    ),
    "grasp-2020-vgg": (_SGD | {"weight_decay": 5e-4}, _GRASP),
    "grasp-2020-resnet": (_SGD, _GRASP),
    "snip-2019": (_SNIP | {"epochs": 426, "milestones": [85, 170, 256, 341], "gamma": 0.2}, _ONE_BATCH),
    "snip-2019-paper": (_SNIP | {"epochs": 250, "milestones": [85, 170]}, _ONE_BATCH),
    "force-2021": (_FORCE, _FORCE_SCORING),
    "force-2021-cifar100": (_FORCE, _FORCE_SCORING | {"most_samples": 10 * 128}),
    "force-2021-tiny-imagenet": (
        _FORCE | {"epochs": 300, "milestones": [150, 225]},
        _FORCE_SCORING | {"most_samples": 20 * 128},
    ),
    "prospr-2022": (
        _SGD | {"epochs": 200, "batch_size": 256, "milestones": [100, 150], "weight_decay": 5e-4},
        _ONE_BATCH | {"augment": True, "batchnorm": "batch"},
    ),
    "ntk-sap-2023": (_SGD, {"samples_per_class": 10, "batch_size": 256, "augment": True, "batchnorm": "batch"}),
    "openlth-2020": (_SGD, {}),
    "openlth-2020-vgg": (_SGD, {"prune_classifier": False}),
}
