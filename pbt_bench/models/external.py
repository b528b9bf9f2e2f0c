"""Models of torchvision and timm by name, adapted for scoring.

Fused attention and in-place activations are switched off. The outputs are the same, and second derivatives exist.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from pbt_bench.errors import RequestError, reason
from pbt_bench.models.state_files import load_state


def check(library: str, name: str) -> None:
    """Raise RequestError if `library` is not installed or has no image classifier called `name`."""
    module = _library(library)
    own = library == "torchvision"
    known: list[str] = module.models.list_models(module=module.models) if own else module.list_models()
    if name not in known:
        near = [f"'{library}/{other}'" for other in get_close_matches(name, known, n=3, cutoff=0.5)]
        hint = f"; the nearest: {', '.join(near)}" if near else ""
        raise RequestError(f"unknown model '{library}/{name}' ({len(known)} in {library}{hint})")


def torchvision(channels: int, classes: int, name: str, size: int | None = None, pretrained: bool = False) -> nn.Module:
    """Build torchvision's `name` with `classes` outputs and no auxiliary classifiers, for 3 channels."""
    if channels != 3:
        raise RequestError(f"torchvision's models take images of 3 channels, 'torchvision/{name}' got {channels}")
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):  # in training mode, these return a tuple
        options = {"aux_logits": False, "init_weights": True}
    model = _library("torchvision").models.get_model(name, weights=None, num_classes=classes, **options)
    if pretrained:
        state = _torchvision_state(name)
        load_state(
            model, {key: state[key] for key in state if not key.lower().startswith("aux")}, f"weights of {name!r}"
        )
    return _fit(model, f"torchvision/{name}", channels, classes, size)


def _torchvision_state(name: str) -> dict[str, Tensor]:
    """Return the default weights of torchvision's `name`, which are downloaded once into the folder of torch.hub."""
    weights = _library("torchvision").models.get_model_weights(name).DEFAULT
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise RequestError(
            f"weights of 'torchvision/{name}' cannot be downloaded ({reason(error)}): "
            f"save {weights.url} in {torch.hub.get_dir()}/checkpoints"
        ) from error
    return state


def timm(channels: int, classes: int, name: str, size: int | None = None, pretrained: bool = False) -> nn.Module:
    """Build timm's `name` for `channels`, with `classes` outputs; for `size` if its input size is fixed."""
    library = _library("timm")
    config = library.models.get_pretrained_cfg(name)
    options: dict[str, Any] = {}
    if size is not None and config is not None and config.fixed_input_size:
        options = {"img_size": size}
    try:
        model = library.create_model(name, pretrained=pretrained, in_chans=channels, num_classes=classes, **options)
    except (AssertionError, OSError, RuntimeError, TypeError, ValueError) as error:
        if pretrained:
            raise RequestError(f"model 'timm/{name}' with its pretrained weights: {reason(error)}") from error
        raise RequestError(f"model 'timm/{name}' cannot be built for these images: {reason(error)}") from error
    return _fit(model, f"timm/{name}", channels, classes, size)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise RequestError(f"models '{name}/NAME' need the package {name} (pip install {name}): {error}") from error


def _fit(model: nn.Module, name: str, channels: int, classes: int, size: int | None) -> nn.Module:
    """Adapt `model` for scoring. Raises RequestError if it does not take the images or returns no logits."""
    for module in model.modules():
        for switch in ("inplace", "fused_attn"):
            if getattr(module, switch, None) is True:
                setattr(module, switch, False)
    if size is None:
        return model
    try:
        with torch.no_grad():
            answer = model.eval()(torch.zeros(1, channels, size, size))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise RequestError(f"model {name!r} cannot take {size}x{size} images: {reason(error)}") from error
    if not isinstance(answer, Tensor) or answer.shape != (1, classes):
        raise RequestError(f"model {name!r} is no classifier: it does not answer an image with {classes} logits")
    return model.train()
