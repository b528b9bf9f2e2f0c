"""Recipes of published code by name (FINDINGS.md): `recipe = "fts-2025"` or `[recipe] preset = "fts-2025"`.

Where a paper states no validation split the default `validation_fraction` stands; only FTS v1 states one (10k of 50k).
SNIP drops every 30,000 steps: at 45,000 images in batches of 128 (352 steps an epoch) after epochs 85 and 170.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SGD = {"epochs": 160, "augment": "crop-flip", "schedule": "multistep", "milestones": [80, 120], "weight_decay": 1e-4}
_FTS = {"batch_size": 512, "gamma": 0.2, "weight_decay": 5e-4}
_GRASP = {"samples_per_class": 10, "batchnorm": "batch", "temperature": 200.0}

PRESETS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {  # name: ([recipe], [scoring])
    "fts-2025": (
        _SGD | _FTS | {"learning_rate": 0.01, "milestones": [60, 120], "validation_fraction": 0.2},
        {"samples_per_class": "all", "fisher_batch_size": 1, "augment": True, "batchnorm": "running"},
    ),
    "fts-2025-v2": (  # its shipped configurations say 5 epochs, which its own drops at 80 and 120 contradict
        _SGD | _FTS | {"learning_rate": 0.03},
        {"samples_per_class": 10, "fisher_batch_size": 1, "batchnorm": "calibrated"},
    ),
    "synflow-2020": (_SGD | {"nesterov": True, "milestones": [60, 120]}, {"samples_per_class": 10}),
    "grasp-2020-vgg": (_SGD | {"weight_decay": 5e-4}, _GRASP),
    "grasp-2020-resnet": (_SGD, _GRASP),
    "snip-2019": (
        _SGD | {"epochs": 250, "milestones": [85, 170], "weight_decay": 5e-4},
        {"samples_per_class": "all", "most_samples": 128},
    ),
    "force-2021": (_SGD | {"epochs": 350, "milestones": [150, 250], "weight_decay": 5e-4}, {}),
    "prospr-2022": (
        _SGD | {"epochs": 200, "batch_size": 256, "milestones": [100, 150], "weight_decay": 5e-4},
        {"batch_size": 128, "inner_steps": 3},
    ),
    "ntk-sap-2023": (_SGD, {"perturbations": 5}),
    "openlth-2020": (_SGD, {}),
}
