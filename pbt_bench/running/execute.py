"""Execute one run: data -> model -> warm-up -> statistics -> scores -> masks -> sanity -> diagnosis -> training."""

from __future__ import annotations

import resource
import signal
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pbt_bench.data import load
from pbt_bench.data.images import Dataset
from pbt_bench.data.run_data import Data
from pbt_bench.models.state_files import state_digest
from pbt_bench.pruning.diagnosis import realised_sparsity
from pbt_bench.running.checkpoint import Checkpoint, saving
from pbt_bench.running.claims import ClaimLost
from pbt_bench.running.environment import describe, differing
from pbt_bench.running.group import Group, MaskedNetwork, mask_updates
from pbt_bench.running.record import RECOVERED, Epoch, Metrics, Pruning, RunRecord, Status, digest
from pbt_bench.running.signals import Stopped
from pbt_bench.running.source import method_source_digest
from pbt_bench.spec import RunSpec
from pbt_bench.training.loop import EpochResult, StateError, Trained, evaluate, train
from pbt_bench.training.stepper import State

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
        self._shared: Group | None = None

    def execute(
        self,
        spec: RunSpec,
        on_epoch: Callable[[EpochResult], None] = lambda _: None,
        checkpoint: Checkpoint | None = None,
    ) -> Executed:
        """Execute `spec`; an exception results in a `failed` record.

        Continues from the state in `checkpoint`, if there is one, and saves its state to it.
        """
        started = datetime.now(UTC).isoformat(timespec="seconds")
        start = perf_counter()
        here = describe(self._device)
        if checkpoint:
            checkpoint.environment = here
        _set_globals(spec)
        if self._device.type == "cuda":
            torch.backends.cudnn.deterministic = True
        try:
            try:
                state = checkpoint.load() if checkpoint else None
                executed = self._execute(spec, on_epoch, checkpoint, state)
            except StateError as error:
                assert checkpoint
                checkpoint.refuse(error)
                executed = self._execute(spec, on_epoch, checkpoint, None)
        except (ClaimLost, Stopped):
            raise
        except BaseException as error:  # the record keeps the reason, and the grid continues
            if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
                raise  # by the user; a worker ignores Ctrl-C, so in a worker a method raised it
            executed = Executed(RunRecord.new(spec, "failed", error=_traceback()))
        sessions = checkpoint.sessions if checkpoint else [perf_counter() - start]
        environment = here | {
            "started": started,
            "seconds": sum(sessions),
            "sessions": len(sessions),
            "peak_memory_gib": _peak_memory_gib(self._device),
            **state_digest(spec.init, self._folder),
        }
        if checkpoint and checkpoint.earlier:
            mixed = differing(checkpoint.earlier, here)
            environment |= {"earlier_sessions": checkpoint.earlier} | ({"mixed": mixed} if mixed else {})
        return Executed(msgspec.structs.replace(executed.record, environment=environment), executed.masks)

    def pruning(self, spec: RunSpec) -> Pruning:
        """Compute the pruning of `spec` from the specification alone."""
        return self.mask(spec).pruning

    def mask(self, spec: RunSpec) -> MaskedNetwork:
        """Compute the masked network of `spec` before its training, from the specification alone."""
        _set_globals(spec)
        shared = self._prepare(spec)
        shared.warm_up(spec, None, None)
        return shared.mask(spec)

    def dataset(self, name: str) -> Dataset:
        """Return a dataset, which is read once. Raises RequestError if it cannot be read."""
        if name not in self._datasets:
            self._datasets[name] = load(name, self._folder)
        return self._datasets[name]

    def _execute(
        self,
        spec: RunSpec,
        on_epoch: Callable[[EpochResult], None],
        checkpoint: Checkpoint | None,
        state: State | None,
    ) -> Executed:
        shared = self._prepare(spec)
        data = shared.data
        if state and state["phase"] == "train":
            masked = shared.restore(spec, state)
        else:
            before = {state["phase"]: state["training"]} if state else {}
            with saving(checkpoint, phase="warm-up") as saver:
                shared.warm_up(spec, saver, before.get("warm-up"))
            with saving(checkpoint, phase="statistics") as saver:
                masked = shared.mask(spec, saver, before.get("statistics"))
            state = None
        _set_globals(spec)
        model, updates = masked.model, mask_updates(spec)

        trained = Trained((), None, None, False, masked.masks, {})
        if masked.connected or updates:
            so_far = msgspec.json.encode(masked.pruning).decode()
            phase = {"pruning": so_far, "masks": masked.masks, "begin": masked.begin}
            with saving(checkpoint, phase="train", **phase) as saver:
                trained = train(
                    model, masked.masks, data, spec.recipe, spec.seed, on_epoch, saver, state and state["training"],
                    masked.begin, updates,
                )  # fmt: skip
            if updates:
                masked = shared.updated(masked, trained.masks, trained.update_notes)
        status: Status = "diverged" if trained.diverged else "done" if masked.connected else "collapsed"
        masks = masked.masks
        realised = realised_sparsity(dict(model.named_parameters()), masks)
        metrics, notes = _metrics(model, data, trained), masked.pruning.notes
        if trained.diverged and None not in (metrics.test_loss, metrics.validation_loss):
            # A sum of losses overflows before the weights do; the audit would take this record for an invented one.
            notes = notes | {RECOVERED: {"finite_final_losses": 1.0}}
        record = RunRecord.new(
            spec,
            status,
            source_digest=method_source_digest(spec),
            data_digest=self.dataset(spec.dataset).digest,
            metrics=metrics,
            pruning=msgspec.structs.replace(masked.pruning, realised_sparsity=realised, notes=notes),
            curve=tuple(Epoch(**asdict(epoch)) for epoch in trained.curve),
        )
        return Executed(record, {name: mask.cpu().numpy() for name, mask in masks.items()})

    def _prepare(self, spec: RunSpec) -> Group:
        key = (*spec.group, spec.recipe.split_seed, spec.recipe.validation_fraction, spec.recipe.threads)
        if self._shared is None or key != self._group:
            self._shared = Group(spec, self.dataset(spec.dataset), self._device, self._folder)
            self._group = key
        return self._shared


def _metrics(model: nn.Module, data: Data, trained: Trained) -> Metrics:
    """Evaluate the final weights, and those of the best validation epoch, on the test set.

    With label noise, also evaluate the final weights on the training images whose labels were replaced.
    """
    weights = digest({name: tensor.cpu().contiguous().numpy() for name, tensor in model.state_dict().items()})
    test = evaluate(model, data, data.test)
    held = evaluate(model, data, data.validation) if len(data.validation) else None
    noisy = evaluate(model, data, data.train[data.replaced]) if len(data.replaced) else None
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
        noisy_label_accuracy=noisy.accuracy if noisy else None,
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
