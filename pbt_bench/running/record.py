"""The record of a finished run: one JSON file, which status, resume, retry and analysis read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from numpy.typing import NDArray

from pbt_bench.errors import printable
from pbt_bench.spec import RunSpec

FORMAT = 2  # of the records that this version writes
_LINE_CHARACTERS = 300  # characters of a one-line error
RECOVERED = "divergence"  # note of a diverged run whose final weights have finite losses
_OF_MASKS = ("live_units", "ramanujan_gap", "mask_metrics")  # fields of `Layer` and `Pruning`
_QUOTED = ("    ", "  [Previous line repeated")  # first characters of traceback lines that are not the message
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Status = Literal["done", "diverged", "collapsed", "failed"]


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Final metrics. Accuracies are fractions in [0, 1], losses mean cross-entropy in nats."""

    test_accuracy: Share  # of the last epoch's weights; the headline number
    test_loss: float | None  # None if it is not finite
    validation_accuracy: Share | None  # None if the recipe has no validation images
    validation_loss: float | None  # None if not finite, or without validation images
    train_loss: float | None  # mean over the last epoch; None if the network was not trained
    best_validation_epoch: Count | None  # counted from 1
    test_accuracy_at_best_validation: Share | None  # of the weights after that epoch
    chance_accuracy: Share  # 1 / number of classes
    weights_digest: str  # SHA-256 over the names and bits of the final weights and buffers
    best_test_accuracy_over_epochs: Share | None = None  # selected on the test set; only with recipe.test_every_epoch
    noisy_label_accuracy: Share | None = None  # of the replaced training labels: memorised; only with label_noise


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One prunable tensor."""

    name: str
    shape: tuple[Count, ...]
    prunable: Count
    kept: Count
    zero_scores: Count  # exactly-zero scores
    live_units: Count | None = None  # output channels or units with a live weight
    ramanujan_gap: float | None = None  # sqrt(d_in - 1) + sqrt(d_out - 1) - second singular value


class MaskMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of the masked network at the start of its training, from the mask, the weights and scoring samples."""

    live_unit_share: float | None  # share of the output channels and units of all layers that have a live weight
    log10_paths: float | None  # log10 of the number of paths from input to output; None without a path
    ramanujan_gap: float | None  # mean over the layers that have one
    gradient_norm: float | None  # L2 norm over the kept weights of the gradient of the mean cross-entropy
    ntk_trace: float | None  # sum over the classes of the squared gradient of a logit, mean over samples


class Pruning(msgspec.Struct, frozen=True, kw_only=True):
    """Result of pruning. Counts are numbers of weights; flops are per example, forward, multiply-add = 2."""

    prunable: Count  # weights of convolutions and linear layers; the classifier only with prune_classifier
    kept: Count
    sparsity: Share  # 1 - kept / prunable, of the masks
    realised_sparsity: Share  # share of exact zeros in the evaluated weights
    effective_sparsity: Share  # 1 - (weights on a live input-output path) / prunable
    zero_score_share: Share  # share of exactly-zero scores in the first round
    collapsed_layers: Count  # layers without a kept weight
    flops_dense: Count
    flops_sparse: Count  # of the kept weights
    scoring_seconds: float  # of all passes of the method, shared ones in full; a seed's first run also sorts the scores
    layers: tuple[Layer, ...]
    rounds: Count  # of score and prune; 0 for the dense baseline
    mask_digest: str  # SHA-256 over the names and bits of the masks
    initial_mask_digest: str | None = None  # before the training, if mask updates changed the masks
    # statistic, "warmup" of early_crop, "mask_updates", "divergence" (see RECOVERED) -> measurements
    notes: dict[str, dict[str, float]] = {}
    mask_metrics: MaskMetrics | None = None  # None in records of versions that did not compute them


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the training curve."""

    epoch: Count  # counted from 1
    train_loss: float
    train_accuracy: Share
    validation_loss: float | None
    validation_accuracy: Share | None
    learning_rate: float  # of the epoch's last step
    realised_sparsity: Share
    seconds: float


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Record of a run. `done`, `diverged` and `collapsed` are results; a `failed` run has a traceback in `error`."""

    run_id: str  # 16 hex digits: a hash of the spec
    status: Status  # done, diverged, collapsed or failed
    format: Count = 1  # of the record; 1 if the file does not state it
    spec: RunSpec  # everything that the result depends on
    revisions: dict[str, int | str] = {}  # those of the spec: of the code, where they are not 1
    source_digest: str | None = None  # of the files of the method, its statistics and its scope
    data_digest: str | None = None  # of the images and labels of the dataset; None in records of earlier versions
    metrics: Metrics | None = None  # None for a failed run
    pruning: Pruning | None = None
    curve: tuple[Epoch, ...] = ()  # a row per epoch
    # versions, commit, dirty (uncommitted code), device, host, seconds; of a run that was continued, earlier_sessions,
    # and mixed: the properties in which they differ
    environment: dict[str, Any] = {}
    error: str | None = None  # the traceback of a failed run

    def __post_init__(self) -> None:
        if not isinstance(self.environment.get("seconds", 0.0), (int, float)):
            raise ValueError("environment.seconds is not a number")

    @classmethod
    def new(cls, spec: RunSpec, status: Status, **parts: Any) -> RunRecord:
        """Create the record of a run of `spec` in the format of this version."""
        return cls(run_id=spec.run_id, status=status, format=FORMAT, spec=spec, revisions=spec.revisions, **parts)

    @property
    def error_line(self) -> str | None:
        """The error in one line."""
        return first_line(self.error)

    def to_json(self) -> bytes:
        """Encode as indented JSON with the keys in the order of the fields."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def first_line(error: str | None) -> str | None:
    """Return the first line of an error, or the message of a traceback with its lines joined."""
    lines = (error or "").strip().splitlines()
    if not lines:
        return None
    message = lines[:1]
    if lines[0].startswith("Traceback"):
        last = max((number for number, line in enumerate(lines) if line.startswith("  File ")), default=0)
        message = [line for number, line in enumerate(lines) if number > last and not line.startswith(_QUOTED)]
    return printable(" ".join(" ".join(message or lines[-1:]).split())[:_LINE_CHARACTERS])


def numbers(record: RunRecord) -> dict[str, Any]:
    """Return the plain data of a record that two executions of its run have in common: everything but times.

    Environment and traceback are left out, and so are the mask metrics, which follow from the mask and the weights and
    which earlier versions did not record.
    """
    found: dict[str, Any] = msgspec.to_builtins(record)
    for name in ("format", "environment", "error", "source_digest", "data_digest", "revisions", "spec"):
        found.pop(name)
    for row, name in ((found["pruning"] or {}, "scoring_seconds"), *((row, "seconds") for row in found["curve"])):
        row.pop(name, None)
    for row in (found["pruning"] or {}, *(found["pruning"] or {}).get("layers", ())):
        for name in _OF_MASKS:
            row.pop(name, None)
    return found


def mask_metrics(record: RunRecord) -> dict[str, Any]:
    """Return the plain data of the mask metrics under the names of their fields, empty if the record has none."""
    if record.pruning is None or record.pruning.mask_metrics is None:
        return {}
    found: dict[str, Any] = msgspec.to_builtins(record.pruning)
    layers = [{name: row[name] for name in _OF_MASKS if name in row} for row in found["layers"]]
    return {"pruning": {"layers": layers, "mask_metrics": found["mask_metrics"]}}


def digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Compute the SHA-256 over the names and bits of `arrays`, such as masks or weights."""
    total = hashlib.sha256()
    for name, array in arrays.items():
        total.update(name.encode() + b"\0" + array.tobytes())
    return total.hexdigest()
