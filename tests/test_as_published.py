"""Tests that `protocol = "original"` uses the values of the published code, with the line of each value.

`PUBLISHED` has the repository and commit of every method, and for every field of `[scoring]` the value with file and
lines. A key `dataset.field` is a value for that dataset only. Comments name properties of the code that no field can
express; pbt-bench does not reproduce them.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from networks import batches, published
from torch import Tensor

from pbt_bench.data.images import Dataset, from_arrays
from pbt_bench.data.run_data import Data, prepare
from pbt_bench.errors import RequestError
from pbt_bench.pruning.plugins import pruners
from pbt_bench.pruning.scoring import Scorer, resolve
from pbt_bench.running.execute import Executor
from pbt_bench.running.group import scoring_batches
from pbt_bench.spec import Recipe, RunSpec, Scoring

COMPRESSORS = "batch_exp/experiments/utils/compressors.py"
Published = dict[str, tuple[Any, str]]


def fishing(method: str, lines: str) -> Published:
    """Return the values of version 1 of FTS, which also prunes scales of batch normalisation (finding F13)."""
    return {
        "samples_per_class": ("all", "data/cifar.py:65"),
        "fisher_batch_size": (1, f"exp_configs/exp_{method}.json:42"),
        "augment": (True, "data/cifar.py:13-14"),
        "prune_classifier": (False, f"{COMPRESSORS}:17"),
        "batchnorm": ("running", f"{COMPRESSORS}:{lines}"),
    }


def hutchinson(config: str, signed: tuple[bool, str]) -> Published:
    """Return the values of version 2 of FTS. Its probes also cover parameters that are not pruned: other noise."""
    return {
        "samples_per_class": (10, f"exp_configs/exp_{config}.json:50"),
        "batch_size": (1, f"exp_configs/exp_{config}.json:49"),
        "augment": (True, "data/cifar.py:34-35"),
        "prune_classifier": (False, f"{COMPRESSORS}:15"),
        "batchnorm": ("running", f"{COMPRESSORS}:665"),
        "curvature": ("hutchinson", f"{COMPRESSORS}:681-698"),
        "loss_temperature": (200.0, f"{COMPRESSORS}:662"),
        "probes": (10, f"{COMPRESSORS}:661"),
        "probes_per_batch": (True, f"{COMPRESSORS}:672-682"),
        "signed": signed,
    }


FORCE: Published = {  # the batches of a round may share images; the loss gets logits (finding F10)
    "samples_per_class": ("all", "experiments/datasets.py:112-119"),
    "most_samples": (128, "README.md:16"),
    "batch_size": (128, "experiments/experiments.py:34"),
    "new_batches": (True, "pruning/pruning_algos.py:41"),
    "augment": (True, "experiments/datasets.py:69-70"),
    "batchnorm": ("batch", "pruning/pruning_algos.py:150"),  # the scored copy stays in training mode
    "prune_classifier": (True, "pruning/pruning_algos.py:35"),
    "rounds": (60, "README.md:16"),
    "cifar100.most_samples": (1280, "README.md:18"),
    "tiny-imagenet.most_samples": (2560, "README.md:18"),
    "imagenet.most_samples": (10_240, "README.md:23"),
    "imagenet.batch_size": (256, "train_imagenet.py:48"),
}

PUBLISHED: dict[tuple[str, str], Published] = {
    ("fts", "Gollini/Fisher_Taylor_Sensitivity 8651e88"): fishing("fts", "502"),
    ("fbss", "Gollini/Fisher_Taylor_Sensitivity 8651e88"): fishing("fbss", "563"),
    ("fisher_diagonal", "Gollini/Fisher_Taylor_Sensitivity 8651e88"): fishing("fisher_diag", "355"),
    ("fisher_pruning", "Gollini/Fisher_Taylor_Sensitivity 8651e88"): fishing("fisher_pruner", "355"),
    ("grad_norm", "Gollini/Fisher_Taylor_Sensitivity 8651e88"): fishing("grad_norm", "303"),
    ("hts", "Gollini/Scalable_Second_Order_PaI bfb50ad"): hutchinson("hts", (False, f"{COMPRESSORS}:742")),
    ("hutchinson_diagonal", "Gollini/Scalable_Second_Order_PaI bfb50ad"): hutchinson(
        "hutch_diag", (True, f"{COMPRESSORS}:150-153")
    ),
    ("hutchinson_pruning", "Gollini/Scalable_Second_Order_PaI bfb50ad"): hutchinson(
        "hutch_pruner", (True, f"{COMPRESSORS}:203-208")
    ),
    # The code also prunes biases, and trains other weights than it scores (finding F12).
    ("snip", "namhoonlee/snip-public f028496"): {
        "samples_per_class": ("all", "snip/dataset.py:31-42"),
        "most_samples": (128, "snip/prune.py:7"),
        "batch_size": (128, "README.md:23"),
        "augment": (False, "snip/prune.py:7-10"),
        "batchnorm": ("running", "snip/prune.py:10"),
        "prune_classifier": (True, "snip/model.py:55"),
    },
    # The code draws new linear weights before it scores (finding F12). On CIFAR-100 the values below are those of its
    # VGG-19; its ResNet-32 scores 5 samples per class in halves, twice.
    ("grasp", "alecwangcq/GraSP f17d87a"): {
        "samples_per_class": (10, "configs/cifar10/vgg19/GraSP_90.json:16"),
        "order": ("class", "pruner/GraSP.py:24-29"),
        "batches": (2, "pruner/GraSP.py:82-85"),
        "augment": (True, "utils/data_utils.py:20-21"),
        "batchnorm": ("batch", "pruner/GraSP.py:54"),
        "temperature": (200.0, "pruner/GraSP.py:49"),
        "prune_classifier": (True, "pruner/GraSP.py:63"),
        "tiny-imagenet.order": ("cycle", "configs/tiny_imagenet/vgg19/GraSP_98.json:16-17"),
        "tiny-imagenet.batches": (20, "configs/tiny_imagenet/vgg19/GraSP_98.json:17"),
    },
    # Its files lie in the folder "Image Classification".
    ("grad_flow", "johnrachwan123/Early-Cropression-via-Gradient-Flow-Preservation 6fb1176"): {
        "samples_per_class": ("all", "utils/data_loaders.py:139"),
        "most_samples": (2560, "utils/constants.py:61"),  # five batches
        "batch_size": (512, "utils/config_utils.py:42"),
        "augment": (True, "utils/data_loaders.py:126-128"),
        "batchnorm": ("running", "models/criterions/CroP.py:218"),
        "temperature": (1.0, "models/criterions/CroP.py:291-292"),
        "prune_classifier": (True, "models/criterions/CroP.py:226-227"),
    },
    # No script gives `examples_per_class`, the number of samples of a class.
    ("px", "iurada/px-ntk-pruning ed6c40e"): {
        "batch_size": (128, "launch_scripts/cifar10.sh:13"),
        "augment": (True, "datasets/CIFAR10/dataset.py:26"),
        "batchnorm": ("running", "lib/pruners.py:455"),
        "prune_classifier": (True, "lib/generator.py:18"),
        "rounds": (100, "launch_scripts/cifar10.sh:9"),
        "tiny-imagenet.batch_size": (256, "launch_scripts/tinyimagenet.sh:12"),
    },
    # The loss gets logits (finding F10), and the first and the last layer keep all channels.
    ("snip_structured", "StijnVerdenius/SNIP-it fec11fc"): {
        "samples_per_class": ("all", "utils/data_loaders.py:103"),
        "most_samples": (2560, "utils/constants.py:60"),  # five batches
        "batch_size": (512, "utils/config_utils.py:42"),
        "augment": (True, "utils/data_loaders.py:95"),
        "batchnorm": ("running", "models/criterions/SNAP.py:299"),
        "prune_classifier": (True, "models/criterions/SNAP.py:360"),
    },
    # The code draws weights of one magnitude, +c or -c, and normalises without scale and shift.
    ("edge_popup", "allenai/hidden-networks dddf2d0"): {
        "samples_per_class": ("all", "data/cifar.py:39"),
        "batch_size": (128, "configs/smallscale/conv4/conv4_usc_unsigned.yml:18"),
        "augment": (True, "data/cifar.py:31-32"),
        "batchnorm": ("batch", "trainers/default.py:25"),
        "prune_classifier": (True, "models/frankle.py:55-59"),
        "score_epochs": (100, "configs/smallscale/conv4/conv4_usc_unsigned.yml:15"),
        "score_learning_rate": (0.1, "configs/smallscale/conv4/conv4_usc_unsigned.yml:11"),
        "score_momentum": (0.9, "configs/smallscale/conv4/conv4_usc_unsigned.yml:17"),
        "score_weight_decay": (1e-4, "configs/smallscale/conv4/conv4_usc_unsigned.yml:16"),
    },
    # The values are those of ResNet-20 on CIFAR-10. The code solves large layers in chunks, and repairs the mask.
    ("npb", "pvh1602/NPB 090830c"): {
        "channel_share": (0.01, "scripts/run.sh:4"),
        "kernel_share": (1.0, "scripts/run.sh:4"),
        "prune_classifier": (True, "Pruners/pruners.py:412"),
    },
    # The values are those of ResNet-20 on CIFAR-10.
    ("dpai", "QuanNguyen-Tri/DPaI 137c555"): {
        "score_steps": (3000, "experiments/run.sh:17"),
        "score_learning_rate": (0.005, "experiments/run.sh:14"),
        "node_kernel_share": (0.99, "experiments/run.sh:12"),
        "kernel_share": (0.5, "experiments/run.sh:13"),
        "prune_classifier": (True, "npb.py:159"),
    },
    # The published configurations take the layer counts of IGQ, ERK, SNIP, GraSP or SynFlow.
    ("mica", "Hikari43/minimum_connection_assurance 9b14283"): {
        "output_channels": (
            "rand",
            "Configs/singleshot/mica/igq/cifar10_lottery_resnet20/cifar10_lottery_resnet20_rand.yml:26",
        ),
        "prune_classifier": (True, "Models/lottery_resnet.py:212"),
    },
    ("force", "naver/force 7494eed"): FORCE,
    ("iterative_snip", "naver/force 7494eed"): FORCE,
    # The code detaches the first momentum (finding F11). Its default momentum, 0, does not use that line.
    ("prospr", "mil-ad/prospr a921779"): {
        "samples_per_class": ("all", "datasets.py:224-226"),
        "most_samples": (128, "cli.py:88-93"),
        "batch_size": (128, "cli.py:95-98"),
        "augment": (True, "datasets.py:17-18"),
        "batchnorm": ("batch", "prospr/prospr.py:214"),
        "inner_steps": (3, "cli.py:62"),
        "inner_learning_rate": (0.1, "cli.py:68"),
        "inner_momentum": (0.0, "cli.py:75"),
        "prune_classifier": (True, "prospr/utils.py:19-26"),
    },
    # The code draws new weights for every draw; pbt-bench permutes the dense weights.
    ("ntk_sap", "YiteWang/NTK-SAP e23682b"): {
        "samples_per_class": (10, "main.py:67"),
        "batch_size": (256, "main.py:69"),
        "perturbations": (1, "main.py:93"),
        "perturbation_scale": (0.01, "main.py:95"),
        "prune_classifier": (True, "main.py:27"),
        "rounds": (20, "scripts/run.sh:14"),
        "cifar10.perturbations": (5, "scripts/run.sh:20"),
    },
}
DATASETS = ("cifar10", "cifar100", "tiny-imagenet", "imagenet", "digits")


def run(method: str, dataset: str = "digits", **scoring: Any) -> RunSpec:
    return RunSpec(
        dataset=dataset, model="vgg8", method=method, sparsity=0.9, seed=0, protocol="original",
        recipe=Recipe(augment="crop-flip"), scoring=Scoring(**scoring),
    )  # fmt: skip


def test_every_method_with_an_original_protocol_is_listed_with_its_source() -> None:
    own = {name for name, entry in pruners().items() if entry.original or entry.original_on}
    assert {method for method, _ in PUBLISHED} == own
    for (method, code), values in PUBLISHED.items():
        assert re.fullmatch(r"[\w-]+/[\w-]+ [0-9a-f]{7}", code), method
        for field, (_, where) in values.items():
            assert re.fullmatch(r"[\w./-]+:\d+(-\d+)?", where), f"{method} {field}: {where}"


@pytest.mark.parametrize(("method", "code"), PUBLISHED)
def test_the_original_protocol_is_that_of_the_published_code(method: str, code: str) -> None:
    values = {field: value for field, (value, _) in PUBLISHED[method, code].items()}
    entry = pruners()[method]
    assert entry.rounds == values.pop("rounds", 1)
    everywhere = {field: value for field, value in values.items() if "." not in field}
    assert entry.original.keys() <= everywhere.keys(), "a value without a source"
    assert {f"{dataset}.{field}" for dataset, own in entry.original_on.items() for field in own} == {
        field for field in values if "." in field
    }
    for dataset in DATASETS:
        scoring, options = resolve(method, run(method, dataset))
        defaults = {name: option.default for name, option in entry.options.items()}
        found = defaults | msgspec.structs.asdict(scoring) | dict(options)
        for field, value in everywhere.items():
            assert found.get(field, False) == values.get(f"{dataset}.{field}", value), f"{dataset} {field}"


def test_a_method_keeps_the_classifier_only_if_its_own_code_does() -> None:
    for method in pruners():
        for grid in (True, False):
            found = resolve(method, run(method, prune_classifier=grid))[0].prune_classifier
            assert found == pruners()[method].original.get("prune_classifier", grid)


def toy(counts: tuple[int, ...]) -> Data:
    """Return shuffled images, `counts` of every class, with the number of the image as its first pixel."""
    targets = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    targets = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))]
    pixels = torch.zeros(len(targets), 1, 12, 12, dtype=torch.uint8)
    pixels[:, 0, 5, 5] = torch.arange(1, len(targets) + 1, dtype=torch.uint8)
    arrays = pixels.numpy(), targets.numpy()
    dataset: Dataset = from_arrays(*arrays, *arrays)
    return prepare(dataset, 0.0, 0, torch.device("cpu"))


def drawn(scoring: Scoring, round_: int = 1, recipe: Recipe | None = None) -> list[tuple[Tensor, Tensor]]:
    """Return the scoring data of the toy images."""
    spec = msgspec.structs.replace(run("snip"), recipe=recipe or Recipe())
    return scoring_batches(toy((20, 18, 16)), scoring, spec, round_)


def numbers(data: list[tuple[Tensor, Tensor]]) -> list[list[float]]:
    return [inputs[:, 0].amax((1, 2)).tolist() for inputs, _ in data]


def labels(data: list[tuple[Tensor, Tensor]]) -> list[list[int]]:
    return [targets.tolist() for _, targets in data]


def test_batches_is_a_number_of_batches_and_order_sorts_the_samples() -> None:
    halves = labels(drawn(Scoring(samples_per_class=5, batches=2, order="class")))
    assert halves == [[0] * 5 + [1] * 2, [1] * 3 + [2] * 5]  # the first half is the smaller, as in GraSP's code
    turns = labels(drawn(Scoring(samples_per_class=4, batches=4, order="cycle")))
    assert turns == [[0, 1, 2]] * 4
    for order in ("class", "cycle"):
        everything = drawn(Scoring(samples_per_class="all", order=order, batch_size=64))
        assert sorted(numbers(everything)[0]) == sorted(numbers(drawn(Scoring(samples_per_class="all")))[0])
    (uneven,) = labels(drawn(Scoring(samples_per_class="all", order="cycle")))
    assert uneven == [0, 1, 2] * 16 + [0, 1] * 2 + [0] * 2
    (mixed,) = labels(drawn(Scoring(samples_per_class=5)))
    assert mixed != sorted(mixed)
    assert [len(part) for part in labels(drawn(Scoring(samples_per_class=5, batches=4)))] == [3, 4, 4, 4]
    with pytest.raises(RequestError, match="scoring.batches = 16 must be at most the 15 scoring samples"):
        drawn(Scoring(samples_per_class=5, batches=16))


def test_later_rounds_have_samples_and_crops_of_their_own() -> None:
    scoring = Scoring(samples_per_class="all", most_samples=12, augment=True)
    recipe = Recipe(augment="crop-flip", crop_padding=2)
    rounds = [drawn(scoring, round_, recipe)[0][0] for round_ in (1, 2, 3, 2)]
    assert torch.equal(rounds[1], rounds[3])
    for one, other in pairwise(rounds[:3]):
        assert not torch.equal(one, other)
    plain = [numbers(drawn(Scoring(samples_per_class="all", most_samples=12), round_))[0] for round_ in (1, 2)]
    assert sorted(plain[0]) != sorted(plain[1])


def test_augmented_scoring_data_are_augmented_as_the_recipe_augments() -> None:
    for augment in ("none", "crop", "flip"):
        recipe = Recipe(augment=augment)
        plain, augmented = (drawn(Scoring(augment=own), recipe=recipe)[0][0] for own in (False, True))
        assert torch.equal(plain, augmented) == (augment == "none")


def test_a_run_draws_its_new_batches_for_methods_in_rounds_only() -> None:
    executor = Executor(Path("nowhere"), torch.device("cpu"))
    for method, differ in (("force", True), ("iterative_snip", True), ("snip", False)):
        digests = {
            executor.pruning(
                RunSpec(
                    dataset="digits", model="vgg8", method=method, sparsity=0.9, seed=0,
                    scoring=Scoring(samples_per_class=2, rounds=3, new_batches=new_batches),
                )
            ).mask_digest
            for new_batches in (False, True)
        }  # fmt: skip
        assert len(digests) == 1 + differ


@pytest.mark.parametrize("method", ["force", "iterative_snip"])
def test_every_round_scores_the_batches_that_were_drawn_for_it(method: str) -> None:
    """Compare with plain code: |θ·g| on the batch of the round, for FORCE with dense θ and with regrowth."""
    model, x, y = published("conv")
    data = [[batch] for batch in batches(x, y, 20, 20, 20)]
    scoring = Scoring(rounds=3, new_batches=True)
    ours = Scorer(model, data[0], scoring, 0, lambda round_: data[round_ - 1]).prune(method, 0.9).masks
    dense = {name: model.get_parameter(name).detach().clone() for name in ours}
    total = sum(weight.numel() for weight in dense.values())
    kept = {name: torch.ones_like(weight) for name, weight in dense.items()}
    for round_, [(x, y)] in enumerate(data, 1):
        leaves = {name: (weight * kept[name]).requires_grad_() for name, weight in dense.items()}
        loss = torch.nn.functional.cross_entropy(torch.func.functional_call(model, leaves, (x,)), y)
        slopes = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        scores = {name: (slopes[name] * dense[name]).abs() for name in dense}
        if method == "iterative_snip":
            scores = {name: score.masked_fill(kept[name] == 0, -1) for name, score in scores.items()}
        count = total - (int(0.9 * total) if round_ == 3 else int((1 - 0.1 ** (round_ / 3)) * total))
        least = torch.cat([score.flatten() for score in scores.values()]).topk(count).values[-1]
        kept = {name: (score >= least).double() for name, score in scores.items()}
    for name, mask in ours.items():
        assert torch.equal(mask, kept[name].bool()), name
