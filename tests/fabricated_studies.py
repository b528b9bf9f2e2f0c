"""Studies with invented results, and what the default audit says of each.

python tests/fabricated_studies.py prints a line for each study.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from pbt_bench.running.audit import Audit, audit
from pbt_bench.running.execute import Executed, Executor
from pbt_bench.running.record import RunRecord, digest
from pbt_bench.running.store import Store
from pbt_bench.spec import Recipe, RunSpec, Scoring

Masks = dict[str, NDArray[np.bool_]]
Study = list[Executed]
IMAGES = 450  # test images of digits
SPECS = [
    RunSpec(
        dataset="digits",
        model="vgg8",
        method=method,
        sparsity=sparsity,
        seed=seed,
        recipe=Recipe(epochs=2, batch_size=256),
        scoring=Scoring(samples_per_class=2, rounds=3),
    )
    for seed in (0, 1)
    for method, sparsity in (("dense", 0.0), ("snip", 0.9), ("snip", 0.9999), ("synflow", 0.9), ("magnitude", 0.9))
]


def honest() -> Study:
    """Execute the runs of the study."""
    executor = Executor(Path("nowhere"), torch.device("cpu"))
    return [executor.execute(spec) for spec in SPECS]


def changed(run: Executed, part: str = "", **values: object) -> Executed:
    """Return a run whose record, or the `part` of it, has other values."""
    record = run.record
    if part == "curve":
        values = {"curve": tuple(msgspec.structs.replace(row, **values) for row in record.curve)}
    elif part:
        values = {part: msgspec.structs.replace(getattr(record, part), **values)}
    return Executed(msgspec.structs.replace(record, **values), run.masks)


def with_accuracy(run: Executed, accuracy: float) -> Executed:
    return changed(run, "metrics", test_accuracy=accuracy, test_accuracy_at_best_validation=accuracy)


def with_masks(run: Executed, masks: Masks) -> Executed:
    """Return a run with other masks of the same counts, whose digest is right."""
    return Executed(changed(run, "pruning", mask_digest=digest(masks)).record, masks)


def as_another(run: Executed, other: Executed) -> Executed:
    """Return the results of `other` under the specification of `run`."""
    record = msgspec.structs.replace(other.record, spec=run.record.spec, run_id=run.record.run_id)
    return Executed(record, other.masks)


def run_of(study: Study, method: str, sparsity: float, seed: int) -> Executed:
    wanted = (method, sparsity, seed)
    return next(
        run for run in study if (run.record.spec.method, run.record.spec.sparsity, run.record.spec.seed) == wanted
    )


def each(change: Callable[[Executed], Executed], method: str = "snip", sparsity: float = 0.9) -> Callable[..., Study]:
    """Change the runs of one method at one sparsity."""

    def fabricate(study: Study) -> Study:
        cell = (method, sparsity)
        return [change(run) if (run.record.spec.method, run.record.spec.sparsity) == cell else run for run in study]

    return fabricate


def invented_accuracies(study: Study) -> Study:
    draws = random.Random(0)
    return [with_accuracy(run, draws.random()) for run in study]


def invented_whole_accuracies(study: Study) -> Study:
    """Invent accuracies of the trained networks that are shares of whole images."""
    return [with_accuracy(run, 430 / IMAGES) if run.record.status == "done" else run for run in study]


def other_seeds_copied(study: Study) -> Study:
    """Give both seeds the results of seed 0."""
    return [
        as_another(run, run_of(study, run.record.spec.method, run.record.spec.sparsity, 0)) if run.record.spec.seed
        else run for run in study
    ]  # fmt: skip


def masks_of_another_seed(study: Study) -> Study:
    def change(run: Executed) -> Executed:
        first = run_of(study, "snip", 0.9, 0)
        return Executed(changed(run, pruning=first.record.pruning).record, first.masks)

    return each(change)(study)


def one_method_as_another(study: Study) -> Study:
    """Give SynFlow the results of magnitude, with the number of rounds of SynFlow."""

    def change(run: Executed) -> Executed:
        other = as_another(run, run_of(study, "magnitude", 0.9, run.record.spec.seed))
        return changed(other, "pruning", rounds=3)

    return each(change, "synflow")(study)


def random_masks(study: Study) -> Study:
    """Permute the masks within each layer, and state the digest of the result."""

    def change(run: Executed) -> Executed:
        assert run.masks
        draws = np.random.default_rng(0)
        permuted = {name: draws.permuted(mask.ravel()).reshape(mask.shape) for name, mask in run.masks.items()}
        return with_masks(run, permuted)

    return each(change)(study)


def shuffled_masks(study: Study) -> Study:
    """Give the runs of one method the results of the sanity check that shuffles their masks."""
    executor = Executor(Path("nowhere"), torch.device("cpu"))

    def change(run: Executed) -> Executed:
        return as_another(run, executor.execute(msgspec.structs.replace(run.record.spec, sanity="shuffle")))

    return each(change)(study)


def a_collapse_that_is_hidden(study: Study) -> Study:
    """Give a disconnected network the status, the curve and the accuracy of a trained one."""

    def change(run: Executed) -> Executed:
        other = run_of(study, "snip", 0.9, run.record.spec.seed).record
        return changed(run, status="done", curve=other.curve, metrics=other.metrics)

    return each(change, sparsity=0.9999)(study)


def a_collapse_that_is_invented(study: Study) -> Study:
    change = lambda run: changed(  # noqa: E731
        changed(run, "metrics", train_loss=None, best_validation_epoch=None, test_accuracy_at_best_validation=None),
        status="collapsed", curve=(),
    )  # fmt: skip
    return each(change)(study)


def a_divergence_that_is_invented(study: Study) -> Study:
    def change(run: Executed) -> Executed:
        curve = run.record.curve[:1]
        metrics = {"train_loss": curve[0].train_loss, "best_validation_epoch": 1}
        return changed(changed(run, "metrics", **metrics), status="diverged", curve=curve)

    return each(change)(study)


STUDIES: dict[str, tuple[Callable[[Study], Study], str]] = {  # what is invented, and what the audit says of it
    "accuracies": (invented_accuracies, "which is no number of right answers in 450 images"),
    "seeds": (other_seeds_copied, "it has the final weights of"),
    "curves of another seed": (
        lambda study: each(lambda run: changed(run, curve=run_of(study, "snip", 0.9, 0).record.curve))(study),
        "it has the curve of",
    ),
    "masks of another seed": (masks_of_another_seed, "masks differ in"),
    "one method as another": (one_method_as_another, "masks differ in"),
    "masks at random": (random_masks, "its masks give"),
    "shuffled masks": (shuffled_masks, "masks differ in"),
    "no collapse": (a_collapse_that_is_hidden, "it is done, and its masks keep no path"),
    "a collapse": (a_collapse_that_is_invented, "it is collapsed, and its masks keep a path"),
    "a divergence": (a_divergence_that_is_invented, "diverged, but the losses of its final weights are finite"),
    "effective sparsity": (
        each(lambda run: changed(run, "pruning", effective_sparsity=0.9)), "effective_sparsity is 0.9, but",
    ),
    "chance": (each(lambda run: changed(run, "metrics", chance_accuracy=0.01)), "chance_accuracy is 0.01, but"),
    "another recipe": (each(lambda run: changed(run, "curve", learning_rate=0.01)), "but its recipe gives"),
    "times": (each(lambda run: changed(run, "curve", seconds=-1.0)), "a time is negative"),
    "fewer rounds": (each(lambda run: changed(run, "pruning", rounds=1), "synflow"), "rounds is 1, but"),
    "runs left out": (lambda study: study[:-1], "1 of 10 runs have no result"),
    "runs that failed": (
        each(lambda run: Executed(RunRecord.new(run.record.spec, "failed", error="no"))),
        "2 of 10 runs have no result (2 failed)",
    ),
}  # fmt: skip
UNSEEN = {"accuracies of whole images": invented_whole_accuracies}  # only --retrain finds these; docs/audit.md says so


def write(study: Sequence[Executed], folder: Path) -> Store:
    store = Store(folder)
    store.prepare()
    for run in study:
        store.write(run.record, run.masks)
    return store


def audited(study: Sequence[Executed], folder: Path, retrain: bool = False, seed: int | None = None) -> Audit:
    """Audit a study as `pbt-bench audit --complete` does by default."""
    return audit("study", SPECS, write(study, folder), Path("nowhere"), "cpu", 10, retrain, seed)


def main() -> int:
    """Print whether the default audit finds each study."""
    made, missed = honest(), 0
    for name, (fabricate, text) in STUDIES.items():
        with tempfile.TemporaryDirectory() as folder:
            found = audited(fabricate(made), Path(folder))
        seen = bool(found.faults or found.absent) and text in found.text()
        missed += not seen
        print(f"{'found' if seen else 'MISSED'}: {name}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
