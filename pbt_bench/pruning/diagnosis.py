"""Diagnosis of a masked network: layer densities, collapse, effective sparsity, FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pbt_bench.connectivity.layer_graphs import layer_graph, output_units
from pbt_bench.connectivity.live_weights import trace
from pbt_bench.errors import RequestError, SparsityError
from pbt_bench.models.prunable import Masks, owners, prunable
from pbt_bench.pruning.masks import check_masks


@dataclass(frozen=True)
class LayerDiagnosis:
    """One prunable tensor."""

    name: str
    shape: tuple[int, ...]
    prunable: int
    kept: int
    live: int  #: kept weights on a live input-output path
    flops_dense: int
    units: int  #: output channels or units
    live_units: int  #: those with a live weight
    zero_scores: int | None = None  #: exactly-zero scores, if scores were given

    @property
    def density(self) -> float:
        """kept / prunable."""
        return self.kept / self.prunable


@dataclass(frozen=True)
class Diagnosis:
    """A masked network. Flops are per example, forward, multiply-add = 2, of convolutions and linear layers."""

    layers: tuple[LayerDiagnosis, ...]
    connected: bool  #: some path of kept weights joins input and output; if not, the network is collapsed
    flops_dense: int
    flops_sparse: int

    @property
    def prunable(self) -> int:
        """Number of prunable weights."""
        return sum(layer.prunable for layer in self.layers)

    @property
    def kept(self) -> int:
        """Number of kept weights."""
        return sum(layer.kept for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """1 - kept / prunable."""
        return 1 - self.kept / self.prunable

    @property
    def effective_sparsity(self) -> float:
        """1 - (kept weights on at least one path of kept weights from an input to an output) / prunable.

        A unit that only a bias, a normalisation shift or a learned position feeds carries a constant, not the
        input: weights behind it are not effective. What a path is, at a product, a normalisation or an attention,
        is defined in `pbt_bench.connectivity.live_weights`.
        """
        return 1 - sum(layer.live for layer in self.layers) / self.prunable

    @property
    def live_unit_share(self) -> float:
        """Share of the output channels and units of all layers that have at least one live weight."""
        return sum(layer.live_units for layer in self.layers) / sum(layer.units for layer in self.layers)

    @property
    def collapsed_layers(self) -> tuple[str, ...]:
        """Names of the layers that keep no weight."""
        return tuple(layer.name for layer in self.layers if layer.kept == 0)

    def __str__(self) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [f"{'layer':{width}}  {'shape':>16}  {'kept':>9} / {'prunable':<9}  density     live"]
        for layer in self.layers:
            shape = "x".join(map(str, layer.shape))
            mark = "" if layer.zero_scores is None else f"  {layer.zero_scores / layer.prunable:6.1%} zero scores"
            mark += "  collapsed" if layer.kept == 0 else ""
            lines.append(
                f"{layer.name:{width}}  {shape:>16}  {layer.kept:>9,} / {layer.prunable:<9,}  "
                f"{layer.density:7.4f}  {layer.live:>7,}{mark}"
            )
        lines.append(
            f"sparsity {self.sparsity:.4f}, effective {self.effective_sparsity:.4f}, "
            f"{len(self.collapsed_layers)} collapsed layers, {'connected' if self.connected else 'NOT connected'}, "
            f"{self.flops_sparse:,} of {self.flops_dense:,} flops"
        )
        return "\n".join(lines)


def diagnose(
    model: nn.Module, masks: Mapping[str, Tensor], example: Tensor, scores: Mapping[str, Tensor] | None = None
) -> Diagnosis:
    """Diagnose `model` under `masks`; `example` is an input (only its shape counts, its first row is enough).

    With the `scores` that the masks came from, the share of exactly-zero ones is diagnosed too: weights with
    equal scores cannot be told apart, and dead ReLUs can make most scores zero.
    Raises RequestError if there are no masks, or they do not fit the model's parameters.
    """
    check_masks(masks, model)
    if not masks:
        raise RequestError("there are no masks to diagnose")
    if scores is not None and (odd := masks.keys() - scores.keys()):
        raise RequestError(f"there are no scores of {', '.join(sorted(odd))}")
    if not isinstance(example, Tensor) or not len(example):
        raise RequestError(f"the example is {type(example).__name__}, not a tensor [samples, ...] with a sample")
    masks = dict(masks)
    found = trace(model, masks, example)
    modules = owners(model)
    units = {name: output_units(layer_graph(live, modules.get(name))) for name, live in found.live.items()}
    layers = tuple(
        LayerDiagnosis(
            name=name,
            shape=tuple(mask.shape),
            prunable=mask.numel(),
            kept=int(mask.sum()),
            live=int(found.live[name].sum()),
            flops_dense=found.flops_dense[name],
            live_units=units[name][0],
            units=units[name][1],
            zero_scores=None if scores is None else int((scores[name] == 0).sum()),
        )
        for name, mask in masks.items()
    )
    return Diagnosis(
        layers,
        found.connected,
        sum(layer.flops_dense for layer in layers) + found.other_flops,
        sum(found.flops_sparse.values()) + found.other_flops,
    )


def all_kept(model: nn.Module, prune_classifier: bool = True) -> Masks:
    """Return masks that prune nothing."""
    return {name: torch.ones_like(p, dtype=torch.bool) for name, p in prunable(model, prune_classifier).items()}


def realised_sparsity(parameters: Mapping[str, Tensor], masks: Masks) -> float:
    """Return the share of exact zeros in the current weights.

    Raises SparsityError, naming the layer, if a weight that the mask prunes is not exactly zero.
    """
    names = list(masks)
    with torch.no_grad():
        counts = torch.stack(
            [
                torch.stack([torch.count_nonzero(parameters[n]), torch.count_nonzero(parameters[n][~masks[n]])])
                for n in names
            ]
        ).tolist()
    for name, (_, leaked) in zip(names, counts, strict=True):
        if leaked:
            raise SparsityError(f"layer {name!r}: {leaked} pruned weights are not zero")
    return 1 - sum(int(nonzero) for nonzero, _ in counts) / sum(m.numel() for m in masks.values())
