"""Tests of one run, from specification to record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
import torch
from records import result
from torch import nn

from pbt_bench.data.images import from_arrays
from pbt_bench.data.run_data import prepare
from pbt_bench.models import MODELS, Model, build
from pbt_bench.models.prunable import Masks
from pbt_bench.pruning.diagnosis import all_kept
from pbt_bench.pruning.mask_metrics import MeasuredMask
from pbt_bench.pruning.scoring import Pruned
from pbt_bench.running import execute, group
from pbt_bench.running.execute import Executor
from pbt_bench.running.group import Group
from pbt_bench.running.record import MaskMetrics, RunRecord, digest, numbers
from pbt_bench.spec import Recipe, RunSpec, Scoring
from pbt_bench.training.loop import train

METHODS = ("random", "magnitude", "snip", "grasp", "synflow", "fts")


def spec(**changes: Any) -> RunSpec:
    fields: dict[str, Any] = {
        "dataset": "digits",
        "model": "vgg8",
        "method": "snip",
        "sparsity": 0.9,
        "seed": 0,
        "recipe": Recipe(epochs=1, batch_size=128, validation_fraction=0.15),
        "scoring": Scoring(samples_per_class=5, batchnorm="calibrated", rounds=3),
    }
    return RunSpec(**(fields | changes))


def executor() -> Executor:
    return Executor(Path("nowhere"), torch.device("cpu"))


@pytest.mark.parametrize("method", [*METHODS, "dense"])
def test_same_spec_same_record_alone_or_shared_in_any_order(method: str) -> None:
    wanted = spec(method=method, sparsity=0.0 if method == "dense" else 0.9)
    alone = result(executor().execute(wanted).record)
    busy = executor()
    for other in ("fts", "grasp"):
        busy.execute(spec(method=other, sparsity=0.5))
    busy.execute(spec(model="resnet8"))
    assert result(busy.execute(wanted).record) == alone
    assert result(busy.execute(wanted).record) == alone


def test_best_test_accuracy_over_epochs_only_on_request_and_changing_nothing_else() -> None:
    recipe = Recipe(epochs=3, batch_size=128, learning_rate=0.02)
    plain = executor().execute(spec(recipe=recipe)).record.metrics
    asked = executor().execute(spec(recipe=msgspec.structs.replace(recipe, test_every_epoch=True))).record.metrics
    assert plain is not None
    assert asked is not None
    assert plain.best_test_accuracy_over_epochs is None
    assert asked.best_test_accuracy_over_epochs is not None
    assert asked.best_test_accuracy_over_epochs >= asked.test_accuracy
    assert msgspec.structs.replace(asked, best_test_accuracy_over_epochs=None) == plain


def test_label_noise_is_scored_trained_and_measured() -> None:
    recipe = Recipe(epochs=1, batch_size=128, validation_fraction=0.15, label_noise=0.5)
    shared = executor()
    plain, noisy = shared.execute(spec()).record, shared.execute(spec(recipe=recipe)).record
    assert plain.metrics is not None
    assert noisy.metrics is not None
    assert plain.metrics.noisy_label_accuracy is None
    replaced = round(0.5 * 1144)
    assert noisy.metrics.noisy_label_accuracy is not None
    assert noisy.metrics.noisy_label_accuracy * replaced == round(noisy.metrics.noisy_label_accuracy * replaced)
    assert plain.pruning is not None
    assert noisy.pruning is not None
    assert plain.pruning.mask_digest != noisy.pruning.mask_digest
    assert result(executor().execute(spec(recipe=recipe)).record) == result(noisy)


def test_the_record_has_every_promised_field() -> None:
    record = executor().execute(spec()).record
    plain = msgspec.json.decode(record.to_json())
    assert list(plain) == [
        "run_id", "status", "format", "spec", "revisions", "source_digest", "data_digest", "metrics", "pruning",
        "curve", "environment", "error",
    ]  # fmt: skip
    assert plain["format"] == 2
    assert len(plain["source_digest"]) == 12
    assert plain["status"] == "done"
    assert {"test_accuracy", "validation_accuracy", "best_validation_epoch", "test_accuracy_at_best_validation"} <= set(
        plain["metrics"]
    )
    pruning = plain["pruning"]
    assert pruning["prunable"] - pruning["kept"] == int(0.9 * pruning["prunable"])
    assert pruning["realised_sparsity"] == pruning["sparsity"] == plain["curve"][-1]["realised_sparsity"]
    assert pruning["sparsity"] <= pruning["effective_sparsity"] < 1
    assert 0 < pruning["flops_sparse"] < pruning["flops_dense"]
    assert sum(layer["kept"] for layer in pruning["layers"]) == pruning["kept"]
    assert {"torch", "numpy", "processor", "pbt_bench", "commit", "dirty", "host", "seconds"} <= set(
        plain["environment"]
    )
    assert msgspec.json.decode(record.to_json(), type=RunRecord) == record


@pytest.mark.parametrize("method", ["snip", "dense"])
def test_mask_metrics_change_no_bit_of_a_run(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    wanted = spec(model="resnet8", method=method, sparsity=0.9 if method == "snip" else 0.0)
    record = executor().execute(wanted).record
    assert record.pruning is not None
    assert None not in msgspec.to_builtins(record.pruning.mask_metrics).values()
    assert all(layer.live_units for layer in record.pruning.layers)
    nothing = dict.fromkeys(MaskMetrics.__struct_fields__)

    def without(model: nn.Module, masks: Masks, *_: object) -> MeasuredMask:
        return MeasuredMask(nothing, dict.fromkeys(masks))

    monkeypatch.setattr(group, "measure", without)
    plain = executor().execute(wanted).record
    assert numbers(plain) == numbers(record)
    assert plain.pruning is not None
    assert plain.pruning.mask_metrics == MaskMetrics(**nothing)


def test_a_network_without_a_path_is_evaluated_and_not_trained() -> None:
    record = executor().execute(spec(method="random", sparsity=0.999)).record
    assert record.status == "collapsed"
    assert record.curve == ()
    assert record.metrics is not None
    assert record.metrics.test_accuracy == pytest.approx(0.1, abs=0.02)
    assert record.pruning is not None
    assert record.pruning.effective_sparsity == 1


def test_a_diverging_run_is_a_result() -> None:
    record = executor().execute(spec(recipe=Recipe(epochs=2, learning_rate=1e30, schedule="constant"))).record
    assert record.status == "diverged"
    assert record.metrics is not None
    assert record.metrics.test_loss is None
    assert record.pruning is not None
    assert record.pruning.realised_sparsity == record.pruning.sparsity
    assert msgspec.json.decode(record.to_json(), type=RunRecord) == record


def test_an_exception_becomes_a_failed_record_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr(execute, "train", broken)
    record = executor().execute(spec()).record
    assert record.status == "failed"
    assert record.error_line == "ZeroDivisionError: no such luck"
    assert "Traceback" in (record.error or "")


def test_zero_epochs_scores_and_diagnoses_without_training() -> None:
    record = executor().execute(spec(recipe=Recipe(epochs=0))).record
    assert record.status == "done"
    assert record.curve == ()
    assert record.pruning is not None


def test_the_test_set_is_touched_for_the_final_and_the_best_weights_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = execute.evaluate  # type: ignore[attr-defined]

    def counting(model: Any, data: Any, images: Any, *rest: Any) -> Any:
        seen.append(len(images))
        return original(model, data, images, *rest)

    monkeypatch.setattr(execute, "evaluate", counting)
    from pbt_bench.training import loop

    monkeypatch.setattr(loop, "evaluate", counting)
    record = executor().execute(spec(recipe=Recipe(epochs=5, validation_fraction=0.15, learning_rate=0.2))).record
    assert record.metrics is not None
    at_end = record.metrics.best_validation_epoch == 5
    assert seen.count(450) == (1 if at_end else 2)
    assert set(seen[:5]) == {203}


def test_sanity_transforms_do_what_they_say() -> None:
    quick = {"recipe": Recipe(epochs=0), "sparsity": 0.8}
    plain, shuffled, inverted = (
        executor().execute(spec(**quick, sanity=sanity)).record.pruning for sanity in ("none", "shuffle", "invert")
    )
    assert plain is not None
    assert shuffled is not None
    assert inverted is not None
    assert [layer.kept for layer in plain.layers] == [layer.kept for layer in shuffled.layers]
    assert plain.mask_digest != shuffled.mask_digest  # finding F19: a shuffle without effect
    assert plain.kept == inverted.kept
    assert [layer.kept for layer in plain.layers] != [layer.kept for layer in inverted.layers]
    reinit = executor().execute(spec(sanity="reinit")).record
    assert reinit.pruning is not None
    assert reinit.pruning.mask_digest == executor().execute(spec()).record.pruning.mask_digest  # type: ignore[union-attr]
    assert result(reinit)["curve"] != result(executor().execute(spec()).record)["curve"]


def prune_as(masks: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every method return `masks`."""
    pruned = Pruned(masks, dict.fromkeys(masks, 0), 0.0, 1)
    monkeypatch.setattr(Group, "_prune", lambda shared, spec, saver, state: pruned)


def test_a_shuffle_has_the_seed_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = all_kept(build("vgg8", 1, 10, seed=0))
    for mask in masks.values():
        mask.flatten()[::2] = False
    prune_as(masks, monkeypatch)
    found = {
        (sanity, seed): executor().pruning(spec(sanity=sanity, seed=seed)).mask_digest
        for sanity in ("none", "shuffle")
        for seed in (0, 1)
    }
    assert found["none", 0] == found["none", 1]
    assert len(set(found.values())) == 3


def test_random_scores_have_the_seed_of_the_run() -> None:
    assert executor().pruning(spec(method="random")).mask_digest != (
        executor().pruning(spec(method="random", seed=1)).mask_digest
    )


@pytest.mark.parametrize("samples", [5, "all"])
def test_scores_come_from_training_images_alone(monkeypatch: pytest.MonkeyPatch, samples: int | Literal["all"]) -> None:
    """Check that other validation and test images change no mask."""
    draws = np.random.default_rng(0)
    x, y = draws.integers(0, 256, (300, 1, 8, 8), dtype=np.uint8), np.arange(300) % 10
    plain = from_arrays(x[:200], y[:200], x[200:], y[200:])
    kept = prepare(plain, 0.15, 0, torch.device("cpu")).train.pixels
    trained_on = (plain.train.pixels[:, None] == kept[None]).all((2, 3, 4)).any(1)[:, None, None, None]

    def masks(**parts: Any) -> str:
        changed = replace(
            plain, **{name: replace(getattr(plain, name), pixels=pixels) for name, pixels in parts.items()}
        )
        monkeypatch.setattr(execute, "load", lambda name, folder: changed)
        return executor().pruning(spec(scoring=Scoring(samples_per_class=samples))).mask_digest

    own, inverted = plain.train.pixels, 255 - plain.train.pixels
    assert masks() == masks(test=255 - plain.test.pixels, train=torch.where(trained_on, own, inverted))
    assert masks() != masks(train=torch.where(trained_on, inverted, own))


def test_one_empty_layer_is_no_collapse_where_a_path_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = all_kept(build("resnet8", 1, 10, seed=0))
    inner = next(name for name in masks if name.endswith("conv2.weight"))
    masks[inner][:] = False
    prune_as(masks, monkeypatch)
    record = executor().execute(spec(model="resnet8", recipe=Recipe(epochs=0))).record
    assert record.pruning is not None
    assert record.pruning.collapsed_layers == 1
    assert record.status == "done"


def test_the_weights_digest_and_the_test_accuracy_are_of_the_last_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the state of the best epoch, here zeros, is loaded only to compute its accuracy."""
    last: dict[str, torch.Tensor] = {}

    def trained(model: torch.nn.Module, *rest: Any) -> Any:
        found = train(model, *rest)
        last.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return replace(found, best_epoch=1, best_state={name: torch.zeros_like(t) for name, t in last.items()})

    monkeypatch.setattr(execute, "train", trained)
    metrics = executor().execute(spec(sparsity=0.5, recipe=Recipe(epochs=2, batch_size=64))).record.metrics
    assert metrics is not None
    assert metrics.weights_digest == digest({name: tensor.contiguous().numpy() for name, tensor in last.items()})
    assert metrics.test_accuracy > 0.3
    assert metrics.test_accuracy_at_best_validation == pytest.approx(0.1, abs=0.02)


def test_warm_up_changes_the_scored_weights_and_rewind_restores_the_initial_ones() -> None:
    magnitude = {"method": "magnitude", "sparsity": 0.5}
    cold = executor().execute(spec(**magnitude)).record
    warm = executor().execute(spec(**magnitude, warmup="5 steps")).record
    rewound = executor().execute(spec(**magnitude, warmup="5 steps", rewind=True)).record
    assert warm.pruning is not None
    assert cold.pruning is not None
    assert rewound.pruning is not None
    assert warm.pruning.mask_digest != cold.pruning.mask_digest
    assert warm.pruning.mask_digest == rewound.pruning.mask_digest
    assert warm.curve[0].train_loss < rewound.curve[0].train_loss


def pooled(channels: int, classes: int) -> nn.Module:
    """Return a network whose batch normalisation has one value per image and channel as input."""
    features = (nn.Conv2d(channels, 6, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(6), nn.ReLU())
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(6, classes))


@pytest.mark.parametrize("method", ["grasp", "fbss", "force"])
def test_a_last_scoring_batch_of_one_image_is_joined_to_the_one_before_it(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS._entries, "pooled", (Model("", "", "", "", own=pooled), __file__))
    few = Scoring(samples_per_class="all", most_samples=17, batch_size=8, fisher_batch_size=8, batchnorm="batch")
    if method == "force":
        few = msgspec.structs.replace(few, new_batches=True, rounds=3)
    record = executor().execute(spec(model="pooled", method=method, recipe=Recipe(epochs=0), scoring=few)).record
    assert record.status == "done", record.error_line
