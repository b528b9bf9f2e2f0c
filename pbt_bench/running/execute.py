"""One run: data -> model -> warm-up -> statistics -> scores -> masks -> sanity -> diagnosis -> train -> evaluate."""

from __future__ import annotations

import copy
import resource
import traceback
from collections.abc import Callable, Collection
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pbt_bench.data import load
from pbt_bench.data.images import Data, Dataset, augment, prepare, scoring_images
from pbt_bench.models import build
from pbt_bench.pruning.api import apply
from pbt_bench.pruning.diagnosis import Diagnosis, all_kept, diagnose, realised_sparsity
from pbt_bench.pruning.masks import Masks
from pbt_bench.pruning.pruners import pruners
from pbt_bench.pruning.scoring import Pruned, Scorer, resolve
from pbt_bench.running.environment import describe
from pbt_bench.running.record import Epoch, Layer, Metrics, Pruning, RunRecord, Status, mask_digest
from pbt_bench.seeds import derive, stream
from pbt_bench.spec import DENSE, RunSpec, Scoring
from pbt_bench.training.loop import EpochResult, evaluate, train, warm_up


class Executor:
    """Executes runs one after another, and keeps what consecutive runs of one group share.

    The result of a run does not depend on what was executed before it.
    """

    def __init__(self, data_folder: Path, device: torch.device) -> None:
        self._folder = data_folder
        self._device = device
        self._datasets: dict[str, Dataset] = {}
        self._group: tuple[object, ...] = ()
        self._shared: _Shared | None = None
        self.masks: dict[str, NDArray[np.bool_]] | None = None  # of the last run, if it got so far

    def execute(
        self, spec: RunSpec, methods: Collection[str] = (), on_epoch: Callable[[EpochResult], None] = lambda _: None
    ) -> RunRecord:
        """The record of `spec`; an exception makes a `failed` record. `methods` are those of its whole group."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        start = perf_counter()
        torch.set_num_threads(spec.recipe.threads)
        self.masks = None
        try:
            record = self._execute(spec, methods, on_epoch)
        except Exception:  # the grid goes on; the record keeps the reason
            record = RunRecord(run_id=spec.run_id, status="failed", spec=spec, error=traceback.format_exc())
        environment = describe(self._device) | {
            "started": started,
            "seconds": perf_counter() - start,
            "peak_memory_gib": _peak_memory_gib(self._device),
        }
        return msgspec.structs.replace(record, environment=environment)

    def _execute(self, spec: RunSpec, methods: Collection[str], on_epoch: Callable[[EpochResult], None]) -> RunRecord:
        shared = self._prepare(spec)
        data, model = shared.data, copy.deepcopy(shared.model)
        pruned = shared.prune(spec, methods)
        masks = pruned.masks
        if spec.sanity == "shuffle":
            masks = _shuffled(masks, spec.seed)
        if spec.rewind:
            model.load_state_dict(shared.initial)
        if spec.sanity == "reinit":
            model = shared.build(derive(spec.seed, "reinit"))
        self.masks = {name: mask.cpu().numpy() for name, mask in masks.items()}
        apply(model, masks)
        diagnosis = diagnose(model, masks, data.inputs(data.train.pixels[:1]))

        curve: tuple[EpochResult, ...] = ()
        best_epoch, best_state, best_test = None, None, None
        status: Status = "done"
        if not diagnosis.connected:
            status = "collapsed"
        else:
            trained = train(model, masks, data, spec.recipe, spec.seed, on_epoch)
            curve, best_epoch, best_state = trained.curve, trained.best_epoch, trained.best_state
            best_test = trained.best_test
            status = "diverged" if trained.diverged else "done"
        realised = realised_sparsity(dict(model.named_parameters()), masks)
        metrics = _metrics(model, data, curve, best_epoch, best_state, best_test)
        return RunRecord(
            run_id=spec.run_id,
            status=status,
            spec=spec,
            metrics=metrics,
            pruning=_pruning(diagnosis, pruned, realised, mask_digest(self.masks)),
            curve=tuple(Epoch(**asdict(epoch)) for epoch in curve),
        )

    def _prepare(self, spec: RunSpec) -> _Shared:
        key = (*spec.group, spec.recipe.split_seed, spec.recipe.validation_fraction, spec.recipe.threads)
        if self._shared is None or key != self._group:
            if spec.dataset not in self._datasets:
                self._datasets[spec.dataset] = load(spec.dataset, self._folder)
            self._shared = _Shared(spec, self._datasets[spec.dataset], self._device)
            self._group = key
        return self._shared


class _Shared:
    """What the runs of a group have in common: data, the model before pruning, and one scorer per scoring choice."""

    def __init__(self, spec: RunSpec, dataset: Dataset, device: torch.device) -> None:
        self.data = prepare(dataset, spec.recipe.validation_fraction, spec.recipe.split_seed, device)
        self._build = partial(build, spec.model, dataset.channels, dataset.classes, init=spec.init, size=dataset.size)
        self._device = device
        self.model = self.build(spec.seed)
        self.initial = copy.deepcopy(self.model.state_dict())
        if spec.warmup != "none":
            warm_up(self.model, self.data, spec.recipe, spec.seed, spec.warmup)
        self._scorers: dict[Scoring, Scorer] = {}

    def build(self, seed: int) -> nn.Module:
        """The group's network with initial weights from `seed`."""
        return self._build(seed).to(self._device)

    def prune(self, spec: RunSpec, methods: Collection[str]) -> Pruned:
        """The masks of `spec`, before any sanity transform of them."""
        if spec.method == DENSE:
            masks = all_kept(self.model, spec.scoring.prune_classifier)
            return Pruned(masks, dict.fromkeys(masks, 0), 0.0, 0)
        scoring = resolve(pruners()[spec.method], spec.scoring, spec.protocol)
        if scoring not in self._scorers:
            same = [m for m in methods if resolve(pruners()[m], spec.scoring, spec.protocol) == scoring]
            self._scorers[scoring] = Scorer(
                self.model, _scoring_batches(self.data, scoring, spec), scoring, derive(spec.seed, "scores"), same
            )
        return self._scorers[scoring].prune(spec.method, spec.sparsity, spec.scope, spec.sanity == "invert")


def _scoring_batches(data: Data, scoring: Scoring, spec: RunSpec) -> list[tuple[Tensor, Tensor]]:
    images = scoring_images(data.train, scoring.samples_per_class, scoring.most_samples, data.classes, spec.seed)
    pixels = images.pixels
    if scoring.augment:
        draws = stream(spec.seed, "scoring augmentation")
        pixels = augment(pixels, spec.recipe.augment, spec.recipe.crop_padding, draws)
    size = scoring.batch_size
    return list(zip(data.inputs(pixels).split(size), images.targets.split(size), strict=True))


def _shuffled(masks: Masks, seed: int) -> Masks:
    """Permute every layer's mask: layer densities stay, the choice of weights goes (Frankle et al. 2021, Sec. 5)."""
    generator = stream(seed, "shuffle")
    order = {name: torch.randperm(mask.numel(), generator=generator) for name, mask in masks.items()}
    return {name: mask.flatten()[order[name].to(mask.device)].view_as(mask) for name, mask in masks.items()}


def _metrics(
    model: nn.Module,
    data: Data,
    curve: tuple[EpochResult, ...],
    best_epoch: int | None,
    best_state: dict[str, Tensor] | None,
    best_test: float | None,
) -> Metrics:
    """The test set: for the final weights, for those of the best validation epoch, and what the recipe adds."""
    test = evaluate(model, data, data.test)
    held = evaluate(model, data, data.validation) if len(data.validation) else None
    at_best = test
    if best_state is not None:
        model.load_state_dict(best_state)
        at_best = evaluate(model, data, data.test)
    return Metrics(
        test_accuracy=test.accuracy,
        test_loss=test.loss,
        validation_accuracy=held.accuracy if held else None,
        validation_loss=held.loss if held else None,
        train_loss=curve[-1].train_loss if curve else None,
        best_validation_epoch=best_epoch,
        test_accuracy_at_best_validation=at_best.accuracy if best_epoch else None,
        chance_accuracy=1 / data.classes,
        best_test_accuracy_over_epochs=best_test,
    )


def _pruning(diagnosis: Diagnosis, pruned: Pruned, realised: float, digest: str) -> Pruning:
    layers = tuple(
        Layer(
            name=layer.name,
            shape=layer.shape,
            prunable=layer.prunable,
            kept=layer.kept,
            zero_scores=pruned.zero_scores[layer.name],
        )
        for layer in diagnosis.layers
    )
    return Pruning(
        prunable=diagnosis.prunable,
        kept=diagnosis.kept,
        sparsity=diagnosis.sparsity,
        realised_sparsity=realised,
        effective_sparsity=diagnosis.effective_sparsity,
        zero_score_share=sum(pruned.zero_scores.values()) / diagnosis.prunable,
        collapsed_layers=len(diagnosis.collapsed_layers),
        flops_dense=diagnosis.flops_dense,
        flops_sparse=diagnosis.flops_sparse,
        scoring_seconds=pruned.seconds,
        layers=layers,
        rounds=pruned.rounds,
        mask_digest=digest,
        notes=pruned.notes,
    )


def _peak_memory_gib(device: torch.device) -> float:
    """Largest resident memory of this process so far, or of its tensors on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
