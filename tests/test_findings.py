"""Tests of findings that no other test module covers, and of the form of docs/findings.md."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import golden
from torch import Tensor, nn

import pbt_bench
from pbt_bench.data import image_tensors as images
from pbt_bench.data.image_tensors import augment
from pbt_bench.errors import RequestError
from pbt_bench.grid_file import load_grid
from pbt_bench.models import build
from pbt_bench.models.prunable import prunable
from pbt_bench.recipes import PRESETS
from pbt_bench.running import execute
from pbt_bench.running.execute import Executor
from pbt_bench.running.record import Metrics, digest
from pbt_bench.spec import Recipe, RunSpec, Scoring

ROOT = Path(__file__).parents[1]


def noise(samples: int, channels: int = 3, side: int = 32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, channels, side, side, generator=generator)
    return [(x, torch.randint(10, (samples,), generator=generator))]


def jaccard(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    both = sum(int((a[n] & b[n]).sum()) for n in a)
    return both / sum(int((a[n] | b[n]).sum()) for n in a)


def zero_share(model: nn.Module, method: str, **scoring: Any) -> float:
    scores = pbt_bench.score(model, noise(32), method=method, **scoring)
    return sum(int((s == 0).sum()) for s in scores.values()) / sum(s.numel() for s in scores.values())


def digits(**fields: Any) -> RunSpec:
    spec: dict[str, Any] = {"dataset": "digits", "model": "vgg8", "method": "snip", "sparsity": 0.9, "seed": 0}
    return RunSpec(**(spec | fields))


def test_f2_training_images_are_shuffled_and_augmented_and_other_images_never(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train: list[Tensor] = []
    augmented: list[int] = []
    batches = images.Images.batches

    def watched(self: images.Images, order: Tensor, *rest: Any) -> Any:
        train.append(order.clone())
        return batches(self, order, *rest)

    def counted(pixels: Tensor, *rest: Any) -> Tensor:
        augmented.append(len(pixels))
        return augment(pixels, *rest)

    monkeypatch.setattr(images.Images, "batches", watched)
    monkeypatch.setattr(images, "augment", counted)
    recipe = Recipe(epochs=2, augment="crop-flip", validation_fraction=0.2)
    Executor(Path("nowhere"), torch.device("cpu")).execute(digits(recipe=recipe, method="magnitude"))
    first, second = (order for order in train if len(order) > 1000)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(len(first)))
    assert len({tuple(order.tolist()) for order in (first, second, torch.arange(len(first)))}) == 3
    assert sum(augmented) == len(first) + len(second), "neither validation nor test images"


def test_f3_initial_weights_and_data_order_do_not_depend_on_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[list[int]] = []
    original = torch.randperm

    def watched(n: int, **options: object) -> Tensor:
        order = original(n, **options)  # type: ignore[call-overload]
        orders.append(order.tolist())
        return order

    monkeypatch.setattr(torch, "randperm", watched)
    executor = Executor(Path("nowhere"), torch.device("cpu"))
    seen = []
    for method in ("magnitude", "random"):
        orders.clear()
        executor.execute(
            RunSpec(
                dataset="digits", model="vgg8", method=method, sparsity=0.5, seed=3, recipe=Recipe(epochs=1),
                scoring=Scoring(samples_per_class="all"),
            )
        )  # fmt: skip
        seen.append([order for order in orders if len(order) > 1000][-1])  # that of the epoch
    assert seen[0] == seen[1]
    untrained = (digits(method=method, sparsity=0.0, recipe=Recipe(epochs=0)) for method in ("magnitude", "random"))
    weights = {metrics.weights_digest for spec in untrained if (metrics := executor.execute(spec).record.metrics)}
    assert len(weights) == 1


def test_f6_fts_and_snip_keep_the_same_weights_at_initialization() -> None:
    model = build("resnet20", 3, 10, seed=0)
    masks = {m: pbt_bench.prune(model, noise(32), method=m, sparsity=0.9) for m in ("fts", "snip", "magnitude")}
    assert jaccard(masks["fts"], masks["snip"]) > 0.98
    assert jaccard(masks["fts"], masks["magnitude"]) < 0.5


def test_f7_initialization_and_batchnorm_mode_decide_the_share_of_zero_scores() -> None:
    default, kaiming = (build("vgg19-bias", 3, 10, seed=0, init=init) for init in ("default", "kaiming"))
    assert zero_share(default, "snip") > 0.6
    assert zero_share(default, "snip", batchnorm="batch") < 0.02
    assert zero_share(default, "snip", batchnorm="calibrated") < 0.05
    assert zero_share(kaiming, "snip") < 0.4


def test_f8_new_probes_for_every_image_are_noise_too() -> None:
    net, x, y, _ = golden()
    images = [(image[None], target[None]) for image, target in zip(x, y, strict=True)]
    probes: dict[str, Any] = {"probes": 10, "probes_per_batch": True, "loss_temperature": 200.0, "signed": True}
    masks = [
        pbt_bench.prune(net, images, method="hutchinson_diagonal", sparsity=0.9, generator=generator, **probes)
        for generator in (torch.Generator().manual_seed(seed) for seed in (0, 1))
    ]
    assert jaccard(*masks) < 0.3


def test_f17_one_weight_more_changes_thousands_in_rounds() -> None:
    model, data = build("vgg8", 3, 10, seed=0), noise(50, side=8)
    one = 1 / sum(p.numel() for p in prunable(model).values())
    changed = {}
    for method in ("snip", "iterative_snip", "force"):
        rounds: dict[str, Any] = {} if method == "snip" else {"rounds": 7}
        a, b = (
            pbt_bench.prune(model, data, method=method, sparsity=sparsity, batchnorm="batch", **rounds)
            for sparsity in (0.9, 0.9 + one)
        )
        changed[method] = sum(int((a[name] ^ b[name]).sum()) for name in a)
    assert changed["snip"] == 1
    assert min(changed["iterative_snip"], changed["force"]) > 1000


def test_f17_float32_and_float64_differ_after_sixty_rounds() -> None:
    model, data = build("vgg8", 3, 10, seed=0), noise(16, side=8)
    double = [(x.double(), y) for x, y in data]
    overlaps: dict[str, list[float]] = {"snip": [], "iterative_snip": []}
    for method, found in overlaps.items():
        for sparsity in (0.9, 0.98):
            a = pbt_bench.prune(model, data, method=method, sparsity=sparsity, batchnorm="batch")
            b = pbt_bench.prune(deepcopy(model).double(), double, method=method, sparsity=sparsity, batchnorm="batch")
            found.append(jaccard(a, b))
    assert min(overlaps["snip"]) > 0.999
    assert min(overlaps["iterative_snip"]) < 0.6


def test_f22_the_headline_is_of_the_last_weights_though_others_were_better(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: dict[str, float] = {}
    evaluate = execute.evaluate  # type: ignore[attr-defined]

    def watched(model: nn.Module, data: Any, images: Any, *rest: Any) -> Any:
        found = evaluate(model, data, images, *rest)
        if len(images) == len(data.test):
            measured[digest({name: t.numpy() for name, t in model.state_dict().items()})] = found.accuracy
        return found

    monkeypatch.setattr(execute, "evaluate", watched)
    rising: dict[str, Any]
    rising = {
        "learning_rate": 1.0,
        "schedule": "constant",
        "warmup_epochs": 4,
        "weight_decay": 0.0,
    }  # the learning rate becomes far too high
    recipe = Recipe(epochs=4, batch_size=32, validation_fraction=0.15, **rising)
    metrics = Executor(Path("nowhere"), torch.device("cpu")).execute(digits(recipe=recipe)).record.metrics
    assert metrics is not None
    assert metrics.best_validation_epoch != 4, "another epoch was better, or this shows nothing"
    assert metrics.test_accuracy == measured[metrics.weights_digest]
    assert metrics.test_accuracy != metrics.test_accuracy_at_best_validation
    assert sorted(measured.values()) == sorted([metrics.test_accuracy, metrics.test_accuracy_at_best_validation])


def test_f22_the_headline_is_the_last_epoch_and_the_best_test_accuracy_is_only_on_request() -> None:
    assert [f for f in Metrics.__struct_fields__ if "test" in f] == [
        "test_accuracy",
        "test_loss",
        "test_accuracy_at_best_validation",
        "best_test_accuracy_over_epochs",
    ]
    spec = RunSpec(
        dataset="digits", model="vgg8", method="snip", sparsity=0.9, seed=0, recipe=Recipe(epochs=2, batch_size=128)
    )
    record = Executor(Path("nowhere"), torch.device("cpu")).execute(spec).record
    assert record.metrics is not None
    assert record.metrics.validation_accuracy == record.curve[-1].validation_accuracy
    assert record.metrics.best_test_accuracy_over_epochs is None


def test_f23_sparsity_is_over_the_recorded_list_of_tensors() -> None:
    executor = Executor(Path("nowhere"), torch.device("cpu"))
    for prune_classifier in (True, False):
        spec = RunSpec(
            dataset="digits", model="resnet8", method="magnitude", sparsity=0.9, seed=0, recipe=Recipe(epochs=0),
            scoring=Scoring(prune_classifier=prune_classifier),
        )  # fmt: skip
        pruning = executor.execute(spec).record.pruning
        assert pruning is not None
        assert sum(layer.prunable for layer in pruning.layers) == pruning.prunable
        assert pruning.prunable - pruning.kept == int(0.9 * pruning.prunable)
        assert any(layer.name == "classifier.weight" for layer in pruning.layers) == prune_classifier
        assert all(len(layer.shape) > 1 for layer in pruning.layers), "no bias, no normalisation"


@pytest.mark.parametrize("value", ['"False"', '["False"]', "0", "[1]"])
def test_f24_a_boolean_is_never_read_from_a_string_or_a_number(tmp_path: Path, value: str) -> None:
    text = (ROOT / "grids" / "digits.toml").read_text().replace("[recipe]", f"rewind = {value}\n[recipe]")
    (tmp_path / "grid.toml").write_text(text)
    with pytest.raises(RequestError, match="must be true or false"):
        load_grid(tmp_path / "grid.toml")


PAGE = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
IDS = [f"F{number}" for number in range(1, PAGE.count("\n### F") + 1)]


def test_every_finding_has_an_id_in_ascending_order_a_source_and_a_test() -> None:
    assert re.findall(r"^\((F\d+)\)=$", PAGE, re.MULTILINE) == IDS
    assert re.findall(r"^### (F\d+)\. ", PAGE, re.MULTILINE) == IDS
    for identifier, text in zip(IDS, re.split(r"^\(F\d+\)=\n", PAGE, flags=re.MULTILINE)[1:], strict=True):
        assert text.startswith(f"### {identifier}. "), "the target and the heading have one id"
        terms = re.findall(r"^(.+)\n+: ", text, re.MULTILINE)
        assert terms == ["Published code", "Where", "Effect", "In pbt-bench", "Tests"], identifier
        where, tests = text.split("\nWhere\n")[1].split("\nEffect\n")[0], text.split("\nTests\n")[1]
        sources = re.findall(r"- \[.*", where)
        assert sources, identifier
        for source in sources:
            found = re.search(
                r"\[([\w/.-]+) (\w{7}), `.*`.*\]\(https://github.com/(.*)/blob/(.{40})/.*#L\d+.*\): .", source
            )
            assert found, source
            assert (found[1], found[2]) == (found[3], found[4][:7]), source
        assert re.match(r": `tests/[\w/]+\.py::test_\w+`", tests), identifier


def test_every_finding_that_is_cited_exists() -> None:
    code = ("pbt_bench/**/*.py", "methods/*.py", "tests/**/*.py", "benchmarks/*.py", "docs/_ext/*.py", "grids/*.toml")
    patterns = (*code, "*.md", "docs/**/*.md", "results/published/*")
    cited: dict[str, set[str]] = {}
    for path in {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}:
        text = path.read_text(encoding="utf-8")
        ids = re.findall(r"[Ff]indings? (F?\d+)\b", text) + re.findall(r"findings\.(?:md|html)#([\w-]+)", text)
        cited[path.relative_to(ROOT).as_posix()] = {identifier.upper() for identifier in ids}
    assert len(set().union(*cited.values())) > 15
    assert {name: ids - set(IDS) for name, ids in cited.items() if ids - set(IDS)} == {}


def test_the_recipes_of_the_page_are_the_presets() -> None:
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in PAGE.splitlines() if re.match(r"\| `[a-z]", row)]
    assert [row[0].strip("`") for row in rows] == list(PRESETS)
    for row in rows:
        recipe = Recipe(**PRESETS[row[0].strip("`")][0])
        numbers = [float(row[index].split()[0].rstrip(",")) for index in (4, 5, 6, 7)]
        assert numbers == [recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.weight_decay]
        assert ("Nesterov" in row[6]) == recipe.nesterov
        if " at " in row[6]:
            factor, epochs = re.search(r"x([\d.]+) at (.*)", row[6]).groups()
            assert (float(factor), [int(e) for e in epochs.split(", ")]) == (recipe.gamma, [*recipe.milestones])
