"""Scores and masks equal those of further original implementations, in float64 (tests/golden, second set)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from networks import GOLDEN, batches, published, published_values
from torch import Tensor

import pbt_bench
from pbt_bench.models import build
from pbt_bench.models.model_state import preserved
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning.masks import pruned_count, quotas
from pbt_bench.pruning.scoring import Scorer
from pbt_bench.pruning.statistic_values import compute
from pbt_bench.pruning.task import Task
from pbt_bench.spec import Scoring

EXACT = 1e-12  # relative error; the largest one found is 1.3e-15
MODES = [("conv", "running"), ("convbn", "batch"), ("res", "batch")]
EITHER = [*MODES, ("convbn", "running"), ("res", "running")]
NETS = ["conv", "convbn", "res"]
SPARSITIES = [0.5, 0.9, 0.98]


def error(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest relative error of a layer."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


def assert_same_masks(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, mask in theirs.items():
        assert torch.equal(ours[name], mask), name


@pytest.mark.parametrize(("net", "mode"), EITHER)
def test_snip_is_that_of_its_pytorch_code(net: str, mode: str) -> None:
    model, x, y = published(net)
    ours = pbt_bench.score(model, [(x, y)], method="snip", batchnorm=mode)
    assert error(ours, published_values("snip")[f"score/{net}.{mode}"]) < EXACT


@pytest.mark.parametrize(("net", "mode"), MODES)
def test_force_is_that_of_its_code(net: str, mode: str) -> None:
    model, x, y = published(net)
    golden = published_values("force")
    for method in ("force", "iterative_snip"):  # the same in the first round
        ours = pbt_bench.score(model, [(x, y)], method=method, batchnorm=mode)
        assert error(ours, golden[f"score/{net}.{mode}"]) < EXACT
        for sparsity in SPARSITIES:
            masks = pbt_bench.prune(model, [(x, y)], method=method, sparsity=sparsity, batchnorm=mode, rounds=7)
            assert_same_masks(masks, golden[f"mask/{method}.{net}.{mode}.7_rounds.{sparsity}"])


@pytest.mark.parametrize(("net", "mode"), EITHER)
def test_grasp_is_that_of_its_code_on_two_halves_of_samples_sorted_by_class(net: str, mode: str) -> None:
    """Its loss is the sum of the means of two halves, so Hg is four times that of the mean of all samples."""
    golden = published_values("grasp")
    model, _, _ = published(net)
    x, y = golden[""]["x"], golden[""]["y"]
    ours = pbt_bench.score(model, batches(x, y, 50, 50), method="grasp", batchnorm=mode)
    theirs = golden[f"score/{net}.{mode}"]
    assert error({name: 4 * score for name, score in ours.items()}, theirs) < EXACT
    if mode == "batch":
        whole = pbt_bench.score(model, [(x, y)], method="grasp", batchnorm=mode)
        assert error({name: 4 * score for name, score in whole.items()}, theirs) > 0.1


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(
    ("case", "sizes", "options"),
    [
        ("one_batch", (15, 45), {}),
        ("new_batches", (15,) * 4, {}),
        ("momentum_fixed", (15,) * 4, {"inner_learning_rate": 0.5, "inner_momentum": 0.9}),
    ],
)
def test_prospr_is_that_of_its_code(net: str, case: str, sizes: tuple[int, ...], options: dict[str, Any]) -> None:
    model, x, y = published(net)
    data = batches(x, y, *sizes)[: 1 if case == "one_batch" else 4]
    ours = pbt_bench.score(model, data, method="prospr", batchnorm="batch", **options)
    golden = published_values("prospr")
    assert error(ours, golden[f"score/{net}.{case}"]) < EXACT
    if options:  # finding F11: the published code detaches the first momentum
        assert error(ours, golden[f"score/{net}.momentum_detached"]) > 0.1


@pytest.mark.parametrize("temperature", [1, 200])
@pytest.mark.parametrize(
    ("method", "case"),
    [("hutchinson_diagonal", "hutch_diag"), ("hutchinson_pruning", "hutch_pruning"), ("hts", "hts")],
)
def test_hutchinson_methods_are_those_of_their_code(method: str, case: str, temperature: int) -> None:
    model, x, y = published("ConvNoBias")
    theirs = published_values("hutchinson")[f"score/{case}.T{temperature}"]
    signed, absolute = (
        Scorer(model, [(x, y)], Scoring(loss_temperature=temperature), 3).scores(
            method, options={"probes": 10, "signed": signed}
        )
        for signed in (True, False)
    )
    assert error(signed, theirs) < EXACT
    assert error(absolute, {name: score.abs() for name, score in theirs.items()}) < EXACT


class GivenFirstRound(Scorer):
    """Begins with scores that are given."""

    given: dict[str, Tensor]

    def scores(self, *_: object, **__: object) -> dict[str, Tensor]:
        return self.given

    _evaluated = scores


class SharedMemory(Task):
    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.parameters.items()}


@pytest.mark.parametrize("net", NETS)
def test_ntk_sap_is_that_of_its_code(net: str) -> None:
    """The golden draws of round 1 permute one another (version 0.1 did), as dense weights that share memory do."""
    model, x, y = published(net)
    golden = published_values("ntk_sap")
    scorer = GivenFirstRound(model, [(x, y)], Scoring(), 0)
    scorer.given = golden[f"score/{net}.R5"]
    with preserved(model):
        found = compute(SharedMemory(**vars(scorer.task)), ["ntk_sensitivity"])["ntk_sensitivity"].values
    assert error({name: value.abs() for name, value in found.items()}, scorer.given) < EXACT
    for sparsity in SPARSITIES:
        assert_same_masks(scorer.prune("ntk_sap", sparsity).masks, golden[f"mask/{net}.20_rounds.{sparsity}"])


def test_every_draw_of_ntk_sap_permutes_the_dense_weights_in_every_round() -> None:
    model, x, y = published("convbn")
    task = Scorer(model, [(x, y)], Scoring(), 0).task
    dense = {name: p.detach().clone() for name, p in task.parameters.items()}
    found = []
    for given in (None, dense):
        with preserved(model):
            values = compute(replace(task, unpruned=given), ["ntk_sensitivity"], {"perturbations": 3})
        found.append(values["ntk_sensitivity"].values)
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


CLASSES = {"resnet50-imagenet": 1000, "vgg19": 100}


@pytest.mark.parametrize("model", ["resnet20", "resnet18", "vgg16", "vgg19", "resnet50-imagenet"])
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.98, 0.999])
def test_erk_quotas_are_those_of_two_original_codes(model: str, sparsity: float) -> None:
    """Random_Pruning's densities give our shares before rounding; RigL rounds, to at most 31 weights more in all."""
    weights = prunable(build(model, 3, CLASSES.get(model, 10), seed=0))
    shapes = {name: tuple(p.shape) for name, p in weights.items()}
    total = sum(p.numel() for p in weights.values())
    ours = quotas(shapes, total - pruned_count(sparsity, total), "erk")
    golden = json.loads(GOLDEN.with_name("erk.json").read_text())[f"{model}/{sparsity}"]
    assert ours.keys() == golden.keys()
    for name, densities in golden.items():
        assert abs(ours[name] - densities["random_pruning"] * weights[name].numel()) < 1, name
        assert abs(ours[name] - densities["rigl"] * weights[name].numel()) < 2.5, name
