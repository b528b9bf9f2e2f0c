"""The runs of a group share the data, the model before pruning, and the scores: all that comes before the training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from pbt_bench.data.image_tensors import Augmentation
from pbt_bench.data.images import Dataset
from pbt_bench.data.run_data import Data, prepare, scoring_images, with_label_noise
from pbt_bench.errors import RequestError
from pbt_bench.mask_update_schedules import schedule
from pbt_bench.models import build
from pbt_bench.models.prunable import Masks
from pbt_bench.pruning.api import apply
from pbt_bench.pruning.diagnosis import Diagnosis, all_kept, diagnose
from pbt_bench.pruning.mask_metrics import SAMPLES, measure
from pbt_bench.pruning.plugins import pruners
from pbt_bench.pruning.scoring import Pruned, Scorer, resolve
from pbt_bench.running.record import Layer, MaskMetrics, Pruning, digest
from pbt_bench.running.statistic_training import StatisticTraining
from pbt_bench.seeds import derive, stream
from pbt_bench.spec import DENSE, Recipe, RunSpec, Scoring
from pbt_bench.training.loop import Saver, StateError, steps_of, warm_up
from pbt_bench.training.mask_updates import MaskUpdates
from pbt_bench.training.stepper import State


def mask_updates(spec: RunSpec) -> MaskUpdates | None:
    """Return how the masks of a run change during its training; None if they do not."""
    own = pruners()[spec.method].mask_updates if spec.method != DENSE else None
    if (name := own or spec.mask_updates) == "none":
        return None
    chosen = schedule(name, spec.options if own else spec.update_options)
    return MaskUpdates(chosen, spec.sparsity, pruners()[spec.method].in_scope(spec.scope), spec.seed)


@dataclass(frozen=True)
class MaskedNetwork:
    """A pruned network before training."""

    model: nn.Module
    masks: Masks
    pruning: Pruning
    connected: bool = True  # a path of kept weights joins input and output
    begin: str | int = 0  # of its training: "N epochs", "N steps" or the number of the steps before it


class Group:
    """The data, the model before pruning, and one scorer per `Scoring`, which the runs of a group share."""

    def __init__(self, spec: RunSpec, dataset: Dataset, device: torch.device, data_folder: Path = Path("data")) -> None:
        recipe = spec.recipe
        self.data = prepare(dataset, recipe.validation_fraction, recipe.split_seed, device, recipe.training_images)
        if recipe.label_noise:
            self.data = with_label_noise(self.data, recipe.label_noise, spec.seed)
        shape = (dataset.channels, dataset.classes)
        self._build = partial(build, spec.model, *shape, init=spec.init, size=dataset.size, folder=data_folder)
        self._device = device
        self.model = self.build(spec.seed)
        self._initial = copy.deepcopy(self.model.state_dict())
        self._warm = spec.warmup == "none"
        self._warm_up_notes: dict[str, float] = {}
        self._scorers: dict[tuple[Scoring, Recipe | None], Scorer] = {}
        self._samples: dict[Scoring, tuple[Tensor, Tensor]] = {}

    def build(self, seed: int) -> nn.Module:
        """Build the group's network with initial weights from `seed`."""
        return self._build(seed).to(self._device)

    def warm_up(self, spec: RunSpec, saver: Saver | None, state: State | None) -> None:
        """Train the dense model before scoring, once for the group."""
        if not self._warm:
            model = self.build(spec.seed)
            self._warm_up_notes = warm_up(
                model, self.data, spec.recipe, spec.seed, spec.warmup, saver, state, spec.sparsity
            )
            self.model, self._warm = model, True

    def mask(self, spec: RunSpec, saver: Saver | None = None, state: State | None = None) -> MaskedNetwork:
        """Score and prune the model, apply the sanity transform, and diagnose the result.

        Statistics that train save their state to `saver`, and continue from `state`.
        """
        model = copy.deepcopy(self.model)
        pruned = self._prune(spec, saver, state)
        if self._warm_up_notes:
            pruned = replace(pruned, notes={"warmup": self._warm_up_notes, **pruned.notes})
        masks = _shuffled(pruned.masks, spec.seed) if spec.sanity == "shuffle" else pruned.masks
        if pruned.start:
            model.load_state_dict(dict(pruned.start.state))
        if spec.rewind:
            model.load_state_dict(self._initial)
        if spec.sanity == "reinit":
            model = self.build(derive(spec.seed, "reinit"))
        apply(model, masks)
        diagnosis = diagnose(model, masks, self.data.inputs(self.data.train.example()))
        measured = measure(model, masks, *self._metric_samples(spec), diagnosis)
        pruning = _pruning(diagnosis, pruned, masks, measured.gaps, MaskMetrics(**measured.values))
        begin = pruned.start.begin if pruned.start else 0
        return MaskedNetwork(model, masks, pruning, diagnosis.connected, begin)

    def restore(self, spec: RunSpec, state: State) -> MaskedNetwork:
        """Return the result of `mask` when `state` was saved; the training restores the weights."""
        try:
            pruning = msgspec.json.decode(state["pruning"], type=Pruning)
            masks = {name: mask.to(self._device) for name, mask in state["masks"].items()}
            begin = state.get("begin", 0)
            steps_of(begin, 1)  # raises RequestError, a ValueError, for another value
            if digest({name: mask.cpu().numpy() for name, mask in masks.items()}) != pruning.mask_digest:
                raise ValueError("its masks have another digest")
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise StateError(str(error)) from None
        return MaskedNetwork(self.build(spec.seed), masks, pruning, begin=begin)

    def _metric_samples(self, spec: RunSpec) -> tuple[Tensor, Tensor]:
        """Return the samples of the mask metrics: at most `SAMPLES` of the scoring data, as they are in the dataset."""
        most = min(SAMPLES, spec.scoring.most_samples or SAMPLES)
        scoring = Scoring(samples_per_class=spec.scoring.samples_per_class, most_samples=most, batch_size=SAMPLES)
        if scoring not in self._samples:
            (self._samples[scoring],) = scoring_batches(self.data, scoring, spec, 1)
        return self._samples[scoring]

    def _prune(self, spec: RunSpec, saver: Saver | None, state: State | None) -> Pruned:
        """Compute the masks of `spec`, before any sanity transform."""
        if spec.method == DENSE:
            masks = all_kept(self.model, spec.scoring.prune_classifier)
            return Pruned(masks, dict.fromkeys(masks, 0), 0.0, 0)
        scoring, options = resolve(spec.method, spec)
        trains = pruners()[spec.method].trains
        key = (scoring, spec.recipe if trains else None)
        if key not in self._scorers:
            draw = partial(scoring_batches, self.data, scoring, spec)
            self._scorers[key] = Scorer(
                self.model, draw(1), scoring, derive(spec.seed, "scores"), draw if scoring.new_batches else None
            )
        scorer = self._scorers[key]
        build = partial(self.build, spec.seed)
        trainer = StatisticTraining(build, self.data, spec.recipe, spec.seed, saver, state) if trains else None
        scorer.task = replace(scorer.task, trainer=trainer)
        updates = mask_updates(spec)
        sparsity = 0.0 if updates and updates.begins_dense else spec.sparsity
        return scorer.prune(spec.method, sparsity, spec.scope, spec.sanity == "invert", options, spec.pattern)

    def updated(self, network: MaskedNetwork, masks: Masks, notes: dict[str, float]) -> MaskedNetwork:
        """Return the trained `network` with the masks of its last mask update, and `notes` on the updates.

        The metrics of the mask remain those at the start of the training.
        """
        before = network.pruning
        diagnosis = diagnose(network.model, masks, self.data.inputs(self.data.train.example()))
        zeros = {layer.name: layer.zero_scores for layer in before.layers}
        pruned = Pruned(masks, zeros, before.scoring_seconds, before.rounds, before.notes | {"mask_updates": notes})
        gaps = {layer.name: layer.ramanujan_gap for layer in before.layers}
        pruning = _pruning(diagnosis, pruned, masks, gaps, before.mask_metrics)
        pruning = msgspec.structs.replace(pruning, initial_mask_digest=before.mask_digest)
        return MaskedNetwork(network.model, masks, pruning, diagnosis.connected)


def scoring_batches(data: Data, scoring: Scoring, spec: RunSpec, round_: int) -> list[tuple[Tensor, Tensor]]:
    """Return the scoring data of a round of an iterative method; other methods use the data of round 1."""
    seed = spec.seed if round_ == 1 else derive(spec.seed, "round", round_)
    limits = scoring.most_samples, data.classes
    images = scoring_images(data.train, scoring.samples_per_class, *limits, seed, scoring.order)
    count = len(images)
    ends = [*range(0, count, scoring.batch_size), count]
    if scoring.batches:
        if scoring.batches > count:
            raise RequestError(f"scoring.batches = {scoring.batches} must be at most the {count} scoring samples")
        ends = [count * part // scoring.batches for part in range(scoring.batches + 1)]
    parts = [slice(start, end) for start, end in pairwise(ends)]
    augmentation = None
    if scoring.augment:
        draws = stream(seed, "scoring augmentation")
        augmentation = Augmentation(spec.recipe.augment, spec.recipe.crop_padding, draws)
    batches = images.batches(torch.arange(len(images)), parts, augmentation)
    return [(data.inputs(batch.pixels), batch.targets) for batch in batches]


def _shuffled(masks: Masks, seed: int) -> Masks:
    """Permute the mask within every layer, which keeps the layer densities (Frankle et al. 2021, Sec. 5)."""
    generator = stream(seed, "shuffle")
    order = {name: torch.randperm(mask.numel(), generator=generator) for name, mask in masks.items()}
    return {name: mask.flatten()[order[name].to(mask.device)].view_as(mask) for name, mask in masks.items()}


def _pruning(
    diagnosis: Diagnosis,
    pruned: Pruned,
    masks: Masks,
    gaps: Mapping[str, float | None],
    metrics: MaskMetrics | None,
) -> Pruning:
    """Combine the diagnosis before training, when every pruned weight is exactly zero, with the scores' statistics."""
    layers = tuple(
        Layer(
            name=d.name,
            shape=d.shape,
            prunable=d.prunable,
            kept=d.kept,
            zero_scores=pruned.zero_scores[d.name],
            live_units=d.live_units,
            ramanujan_gap=gaps[d.name],
        )
        for d in diagnosis.layers
    )
    return Pruning(
        prunable=diagnosis.prunable,
        kept=diagnosis.kept,
        sparsity=diagnosis.sparsity,
        realised_sparsity=diagnosis.sparsity,
        effective_sparsity=diagnosis.effective_sparsity,
        zero_score_share=sum(pruned.zero_scores.values()) / diagnosis.prunable,
        collapsed_layers=len(diagnosis.collapsed_layers),
        flops_dense=diagnosis.flops_dense,
        flops_sparse=diagnosis.flops_sparse,
        scoring_seconds=pruned.seconds,
        layers=layers,
        rounds=pruned.rounds,
        mask_digest=digest({name: mask.cpu().numpy() for name, mask in masks.items()}),
        notes=pruned.notes,
        mask_metrics=metrics,
    )
