"""Execute one run: data -> model -> warm-up -> statistics -> scores -> masks -> sanity -> diagnosis -> training."""

from __future__ import annotations

import copy
import resource
import signal
import traceback
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pbt_bench.data import load
from pbt_bench.data.augmentation import Augmentation
from pbt_bench.data.images import Dataset
from pbt_bench.data.run_data import Data, prepare, scoring_images
from pbt_bench.errors import RequestError
from pbt_bench.models import build
from pbt_bench.models.prunable import Masks
from pbt_bench.pruning.api import apply
from pbt_bench.pruning.diagnosis import Diagnosis, all_kept, diagnose, realised_sparsity
from pbt_bench.pruning.scoring import Pruned, Scorer, resolve
from pbt_bench.running.checkpoint import Checkpoint, saving
from pbt_bench.running.claims import ClaimLost
from pbt_bench.running.environment import describe
from pbt_bench.running.record import Epoch, Layer, Metrics, Pruning, RunRecord, Status, digest
from pbt_bench.running.signals import Stopped
from pbt_bench.seeds import derive, stream
from pbt_bench.spec import DENSE, RunSpec, Scoring
from pbt_bench.training.loop import EpochResult, Saver, State, StateError, Trained, evaluate, train, warm_up

_ERROR_CHARACTERS = 10_000  # kept from each end of a traceback


@dataclass(frozen=True)
class Executed:
    """The record of a run and its masks, by layer; masks are None for a failed run."""

    record: RunRecord
    masks: dict[str, NDArray[np.bool_]] | None = None


class Executor:
    """Execute runs one after another, and share data, models and scores between consecutive runs of a group.

    The result of a run does not depend on the runs executed before it.
    """

    def __init__(self, data_folder: Path, device: torch.device) -> None:
        self._folder = data_folder
        self._device = device
        self._datasets: dict[str, Dataset] = {}
        self._group: tuple[object, ...] = ()
        self._shared: _Shared | None = None

    def execute(
        self,
        spec: RunSpec,
        methods: Collection[str] = (),
        on_epoch: Callable[[EpochResult], None] = lambda _: None,
        checkpoint: Checkpoint | None = None,
    ) -> Executed:
        """Execute `spec`; an exception results in a `failed` record. `methods` are all methods of its group.

        Continues from the state in `checkpoint`, if there is one, and saves its state to it.
        """
        started = datetime.now(UTC).isoformat(timespec="seconds")
        start = perf_counter()
        _set_globals(spec)
        if self._device.type == "cuda":
            torch.backends.cudnn.deterministic = True
        try:
            try:
                state = checkpoint.load() if checkpoint else None
                executed = self._execute(spec, methods, on_epoch, checkpoint, state)
            except StateError as error:
                assert checkpoint
                checkpoint.refuse(error)
                executed = self._execute(spec, methods, on_epoch, checkpoint, None)
        except (ClaimLost, Stopped):
            raise
        except BaseException as error:  # the record keeps the reason, and the grid continues
            if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
                raise  # by the user; a worker ignores Ctrl-C, so in a worker a method raised it
            executed = Executed(RunRecord(run_id=spec.run_id, status="failed", spec=spec, error=_traceback()))
        sessions = checkpoint.sessions if checkpoint else [perf_counter() - start]
        environment = describe(self._device) | {
            "started": started,
            "seconds": sum(sessions),
            "sessions": len(sessions),
            "peak_memory_gib": _peak_memory_gib(self._device),
        }
        return Executed(msgspec.structs.replace(executed.record, environment=environment), executed.masks)

    def pruning(self, spec: RunSpec) -> Pruning:
        """Compute the pruning of `spec` from the specification alone."""
        _set_globals(spec)
        shared = self._prepare(spec)
        shared.warm_up(spec, None, None)
        return shared.mask(spec, ()).pruning

    def _execute(
        self,
        spec: RunSpec,
        methods: Collection[str],
        on_epoch: Callable[[EpochResult], None],
        checkpoint: Checkpoint | None,
        state: State | None,
    ) -> Executed:
        shared = self._prepare(spec)
        data = shared.data
        if state and state["phase"] == "train":
            masked = shared.restore(spec, state)
        else:
            with saving(checkpoint, phase="warm-up") as saver:
                shared.warm_up(spec, saver, state and state["training"])
            state = None
            masked = shared.mask(spec, methods)
        _set_globals(spec)
        model, masks, pruning = masked.model, masked.masks, masked.pruning

        trained = Trained((), None, None, False)
        status: Status = "collapsed"
        if masked.connected:
            so_far = msgspec.json.encode(pruning).decode()
            with saving(checkpoint, phase="train", pruning=so_far, masks=masks) as saver:
                trained = train(
                    model, masks, data, spec.recipe, spec.seed, on_epoch, saver, state and state["training"]
                )
            status = "diverged" if trained.diverged else "done"
        realised = realised_sparsity(dict(model.named_parameters()), masks)
        record = RunRecord(
            run_id=spec.run_id,
            status=status,
            spec=spec,
            metrics=_metrics(model, data, trained),
            pruning=msgspec.structs.replace(pruning, realised_sparsity=realised),
            curve=tuple(Epoch(**asdict(epoch)) for epoch in trained.curve),
        )
        return Executed(record, {name: mask.cpu().numpy() for name, mask in masks.items()})

    def _prepare(self, spec: RunSpec) -> _Shared:
        key = (*spec.group, spec.recipe.split_seed, spec.recipe.validation_fraction, spec.recipe.threads)
        if self._shared is None or key != self._group:
            if spec.dataset not in self._datasets:
                self._datasets[spec.dataset] = load(spec.dataset, self._folder)
            self._shared = _Shared(spec, self._datasets[spec.dataset], self._device)
            self._group = key
        return self._shared


@dataclass(frozen=True)
class _Masked:
    """A pruned network before training."""

    model: nn.Module
    masks: Masks
    pruning: Pruning
    connected: bool = True  # a path of kept weights joins input and output


class _Shared:
    """The data, the model before pruning, and one scorer per `Scoring`, which the runs of a group share."""

    def __init__(self, spec: RunSpec, dataset: Dataset, device: torch.device) -> None:
        self.data = prepare(dataset, spec.recipe.validation_fraction, spec.recipe.split_seed, device)
        self._build = partial(build, spec.model, dataset.channels, dataset.classes, init=spec.init, size=dataset.size)
        self._device = device
        self.model = self.build(spec.seed)
        self._initial = copy.deepcopy(self.model.state_dict())
        self._warm = spec.warmup == "none"
        self._scorers: dict[Scoring, Scorer] = {}

    def build(self, seed: int) -> nn.Module:
        """Build the group's network with initial weights from `seed`."""
        return self._build(seed).to(self._device)

    def warm_up(self, spec: RunSpec, saver: Saver | None, state: State | None) -> None:
        """Train the dense model before scoring, once for the group."""
        if not self._warm:
            model = self.build(spec.seed)
            warm_up(model, self.data, spec.recipe, spec.seed, spec.warmup, saver, state)
            self.model, self._warm = model, True

    def mask(self, spec: RunSpec, methods: Collection[str]) -> _Masked:
        """Score and prune the model, apply the sanity transform, and diagnose the result."""
        model = copy.deepcopy(self.model)
        pruned = self._prune(spec, methods)
        masks = _shuffled(pruned.masks, spec.seed) if spec.sanity == "shuffle" else pruned.masks
        if spec.rewind:
            model.load_state_dict(self._initial)
        if spec.sanity == "reinit":
            model = self.build(derive(spec.seed, "reinit"))
        apply(model, masks)
        diagnosis = diagnose(model, masks, self.data.inputs(self.data.train.example()))
        return _Masked(model, masks, _pruning(diagnosis, pruned, masks), diagnosis.connected)

    def restore(self, spec: RunSpec, state: State) -> _Masked:
        """Return the result of `mask` when `state` was saved; the training restores the weights."""
        try:
            pruning = msgspec.json.decode(state["pruning"], type=Pruning)
            masks = {name: mask.to(self._device) for name, mask in state["masks"].items()}
            if digest({name: mask.cpu().numpy() for name, mask in masks.items()}) != pruning.mask_digest:
                raise ValueError("its masks have another digest")
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise StateError(str(error)) from None
        return _Masked(self.build(spec.seed), masks, pruning)

    def _prune(self, spec: RunSpec, methods: Collection[str]) -> Pruned:
        """Compute the masks of `spec`, before any sanity transform."""
        if spec.method == DENSE:
            masks = all_kept(self.model, spec.scoring.prune_classifier)
            return Pruned(masks, dict.fromkeys(masks, 0), 0.0, 0)
        scoring = resolve(spec.method, spec)
        if scoring not in self._scorers:
            same = [method for method in methods if resolve(method, spec) == scoring]
            draw = partial(_scoring_batches, self.data, scoring, spec)
            self._scorers[scoring] = Scorer(
                self.model, draw(1), scoring, derive(spec.seed, "scores"), same, draw if scoring.new_batches else None
            )
        return self._scorers[scoring].prune(spec.method, spec.sparsity, spec.scope, spec.sanity == "invert")


def _scoring_batches(data: Data, scoring: Scoring, spec: RunSpec, round_: int) -> list[tuple[Tensor, Tensor]]:
    """Return the scoring data of a round of an iterative method; other methods use the data of round 1."""
    seed = spec.seed if round_ == 1 else derive(spec.seed, "round", round_)
    images = scoring_images(
        data.train, scoring.samples_per_class, scoring.most_samples, data.classes, seed, scoring.order
    )
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


def _metrics(model: nn.Module, data: Data, trained: Trained) -> Metrics:
    """Evaluate the final weights, and those of the best validation epoch, on the test set."""
    weights = digest({name: tensor.cpu().contiguous().numpy() for name, tensor in model.state_dict().items()})
    test = evaluate(model, data, data.test)
    held = evaluate(model, data, data.validation) if len(data.validation) else None
    at_best = test
    if trained.best_state is not None:
        model.load_state_dict(trained.best_state)
        at_best = evaluate(model, data, data.test)
    return Metrics(
        test_accuracy=test.accuracy,
        test_loss=test.loss,
        validation_accuracy=held.accuracy if held else None,
        validation_loss=held.loss if held else None,
        train_loss=trained.curve[-1].train_loss if trained.curve else None,
        best_validation_epoch=trained.best_epoch,
        test_accuracy_at_best_validation=at_best.accuracy if trained.best_epoch else None,
        chance_accuracy=1 / data.classes,
        weights_digest=weights,
        best_test_accuracy_over_epochs=trained.best_test,
    )


def _pruning(diagnosis: Diagnosis, pruned: Pruned, masks: Masks) -> Pruning:
    """Combine the diagnosis before training, when every pruned weight is exactly zero, with the scores' statistics."""
    layers = tuple(
        Layer(name=d.name, shape=d.shape, prunable=d.prunable, kept=d.kept, zero_scores=pruned.zero_scores[d.name])
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
    )


def _set_globals(spec: RunSpec) -> None:
    """Reset the global settings of torch that affect numbers and that a method may have changed."""
    torch.set_num_threads(spec.recipe.threads)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)


def _traceback() -> str:
    """Return the traceback of the current exception as valid UTF-8, shortened in the middle."""
    text = traceback.format_exc().encode(errors="replace").decode()
    return text if len(text) <= 2 * _ERROR_CHARACTERS else f"{text[:_ERROR_CHARACTERS]}\n…\n{text[-_ERROR_CHARACTERS:]}"


def _peak_memory_gib(device: torch.device) -> float:
    """Return the peak resident memory of this process, or the peak memory of its tensors on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
