"""The contract that every registered method keeps: a new file in methods/ is tested before anyone writes a test."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from networks import batches, golden, scored_methods
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import pbt_bench
from pbt_bench.errors import RequestError, ScoreError, note_once
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning import api
from pbt_bench.pruning import plugins as module
from pbt_bench.pruning.plugins import folders, pruner, pruners, statistics
from pbt_bench.pruning.scoring import resolve
from pbt_bench.spec import RunSpec, Scoring

METHODS = scored_methods()
RANDOM = [name for name in METHODS if pruners()[name].needs == ("uniform",)]
ROUNDS: dict[str, Any] = {"rounds": 5}  # enough for a contract, quick for a hundred-round method


def state(model: nn.Module) -> dict[str, Any]:
    """Every bit that scoring must not change."""
    return {
        "tensors": {name: t.clone() for name, t in model.state_dict().items()},
        "identity": [id(t) for t in (*model.parameters(), *model.buffers())],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "momenta": [getattr(m, "momentum", None) for m in model.modules()],
        "random": torch.get_rng_state(),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.mark.parametrize("batchnorm", ["running", "batch", "calibrated"])
@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_bit_identical_after_score_and_prune(method: str, batchnorm: str) -> None:
    net, x, y, _ = golden()
    net.train()
    net.bn2.eval()
    net.conv2.weight.requires_grad_(False)
    for index, parameter in enumerate(net.parameters()):
        parameter.grad = torch.full_like(parameter, float(index)) if index % 2 else None
    before = state(net)
    data = batches(x, y, 24, 24)
    pbt_bench.score(net, data, method=method, batchnorm=batchnorm, fisher_batch_size=24)
    pbt_bench.prune(net, data, method=method, sparsity=0.9, batchnorm=batchnorm, fisher_batch_size=24, **ROUNDS)
    assert same(before, state(net))


def test_a_parametrised_layer_is_not_touched_by_scoring_and_diagnosis() -> None:
    """To read the weight of a layer with spectral normalisation moves its buffers in training mode."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4)), nn.Linear(4, 3))
    net = net.double().train()
    x, before = torch.randn(4, 6).double(), state(net)
    masks = pbt_bench.prune(net, [(x, torch.tensor([0, 1, 2, 0]))], method="snip", sparsity=0.5)
    assert list(masks) == ["0.weight", "2.weight"]
    assert 0 < pbt_bench.diagnose(net, masks, x).effective_sparsity < 1
    assert same(before, state(net))


def test_matrices_that_are_not_prunable_are_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    note_once.cache_clear()
    net = nn.Sequential(nn.Linear(6, 5), nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)), nn.Linear(4, 3))
    net.bilinear = nn.Bilinear(4, 3, 2)
    net.token = nn.Parameter(torch.ones(1, 1, 4))
    for _ in range(2):
        with pytest.raises(RequestError):
            pbt_bench.score(net, [], method="magnitude")
    computed, line = capsys.readouterr().err.splitlines()
    assert ": 1.parametrizations.weight.original0, 1.parametrizations.weight.original1 (of layers" in computed
    assert ": bilinear.weight (" in line


def test_activation_checkpoints_are_refused_in_one_line_where_there_is_a_backward_pass() -> None:
    class Checkpointed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](checkpoint(self[0], x, use_reentrant=False))

    net, x = Checkpointed(nn.Linear(6, 6), nn.Linear(6, 5)), torch.randn(8, 6)
    data, before = [(x, torch.arange(8) % 5)], state(net)
    for method in ("snip", "grasp", "prospr", "ntk_sap", "synflow"):
        with pytest.raises(RequestError, match=r"uses torch\.utils\.checkpoint"):
            pbt_bench.score(net, data, method=method)
    masks = pbt_bench.prune(net, data, method="magnitude", sparsity=0.5)
    with pytest.raises(RequestError, match=r"uses torch\.utils\.checkpoint"):
        pbt_bench.diagnose(net, masks, x)
    assert same(before, state(net))


@pytest.mark.parametrize("embedding", [False, True], ids=["parameter", "embedding"])
def test_a_linear_layer_tied_to_an_earlier_tensor_of_another_kind_is_scored_applied_and_diagnosed(
    embedding: bool,
) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code = nn.Embedding(5, 6) if embedding else nn.Parameter(torch.randn(5, 6))
            self.inner = nn.Linear(6, 6)
            self.head = nn.Linear(6, 5, bias=False)
            self.head.weight = self.code.weight if embedding else self.code  # type: ignore[assignment]

        def forward(self, x: Tensor) -> Tensor:
            if embedding:
                x = self.code(x).mean(1)
            return self.head(torch.tanh(self.inner(x)))

    torch.manual_seed(0)
    net = Tied().double()
    code = "code.weight" if embedding else "code"
    x = torch.randint(5, (8, 4)) if embedding else torch.randn(8, 6).double()
    data = [(x, torch.arange(8) % 5)]
    for method in METHODS:
        if not embedding or method in ("snip", "prospr"):
            scores = pbt_bench.score(net, data, method=method)
            assert list(scores) == ["inner.weight", code]
            assert all(bool(s.any()) for s in scores.values())
    masks = pbt_bench.prune(net, data, method="snip", sparsity=0.5)
    pbt_bench.apply(net, masks)
    assert not bool(net.head.weight[~masks[code]].any())
    assert pbt_bench.diagnose(net, masks, x).connected


@pytest.mark.parametrize("targets", [torch.zeros(3).long(), torch.zeros(0).long(), None])
def test_a_batch_that_is_no_pair_of_equal_length_is_refused(targets: Tensor | None) -> None:
    x = torch.randn(7 if targets is None or len(targets) else 0, 4)
    data: Any = [(x, targets)]
    with pytest.raises(RequestError, match="batch 0 is not"):
        pbt_bench.prune(nn.Linear(4, 3), data, method="snip", sparsity=0.5)


@pytest.mark.parametrize(
    ("inputs", "targets", "says"),
    [
        ((3, 4), torch.tensor([0.0, 1.0, 2.0]), r"targets of batch 0 are float32 of shape \(3,\), not class indices"),
        ((3, 4), torch.eye(3).long(), r"targets of batch 0 are int64 of shape \(3, 3\), not class indices"),
        ((3, 4), torch.tensor([0, 1, 3]), "target 3 is not one of the classes 0 to 2"),
        ((3, 4), torch.tensor([0, -1, 2]), "target -1 is not one of the classes 0 to 2"),
        ((3, 5), torch.tensor([0, 1, 2]), r"Linear does not take inputs of shape \(1, 5\), float32: .*multiplied"),
        ((3, 2, 4), torch.tensor([0, 1, 2]), r"Linear: its output for one sample is shape \(1, 2, 3\), not logits"),
    ],
)
def test_wrong_scoring_data_are_named_in_one_line(inputs: tuple[int, ...], targets: Tensor, says: str) -> None:
    with pytest.raises(RequestError, match=says) as error:
        pbt_bench.score(nn.Linear(4, 3), [(torch.ones(inputs), targets)], method="fts")
    assert "\n" not in str(error.value)


def test_what_is_no_model_no_method_no_number_is_named() -> None:
    data = [(torch.ones(3, 4), torch.tensor([0, 1, 2]))]
    broken = nn.Linear(4, 3)
    broken.weight.data[1, 2] = float("nan")
    for model, options, says in (
        (None, {}, "the model is NoneType, not a torch.nn.Module"),
        (nn.Linear(4, 3), {"method": ["fts"]}, r"unknown method \['fts'\]; did you mean 'fts'"),
        (nn.Linear(4, 3), {"generator": 3}, r"generator is int, not a torch\.Generator"),
        (nn.Linear(4, 3), {"sparsity": "half"}, "sparsity = 'half' must be"),
        (nn.LazyLinear(3), {}, "weight has no shape yet: run the model on one batch"),
        (broken, {}, "weight: 1 of 12 weights are NaN or infinite"),
    ):
        with pytest.raises(RequestError, match=says):
            pbt_bench.prune(model, data, **({"method": "synflow", "sparsity": 0.5} | options))  # type: ignore[arg-type]
    masks = pbt_bench.prune(nn.Linear(4, 3), data, method="fts", sparsity=np.float32(0.5))  # type: ignore[arg-type]
    assert int(masks["weight"].sum()) == 6


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"gmp", "lamp", "magnitude", *RANDOM}))
def test_every_method_that_runs_the_network_names_inputs_that_do_not_fit(method: str) -> None:
    with pytest.raises(RequestError, match=r"scoring data: Linear does not take inputs of shape \(1, 5\)"):
        pbt_bench.score(nn.Linear(4, 3), [(torch.ones(3, 5), torch.tensor([0, 1, 2]))], method=method)


def test_the_original_protocol_leaves_no_choice_of_the_grid_but_those_that_change_no_score() -> None:
    odd = Scoring(rounds=3, batch_size=16, most_samples=9, chunk=8)
    for method in METHODS:
        run = RunSpec(dataset="digits", model="vgg8", method=method, sparsity=0.9, seed=0, scoring=odd)
        original = msgspec.structs.replace(run, protocol="original", options={"probe_tolerance": 0.5})
        plain, options = resolve(method, msgspec.structs.replace(original, scoring=Scoring(), options={}))
        assert resolve(method, original) == (msgspec.structs.replace(plain, chunk=8), options)
        assert resolve(method, run) == (odd, {})


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        (None, "masks are NoneType, not a mapping"),
        ({"weights": torch.ones(3, 4) > 0}, "Linear differ: weights"),
        ({"weight": [True] * 12}, r"mask of weight: list, expected torch\.bool \[3, 4\]"),
        ({"weight": torch.ones(3, 4)}, r"mask of weight: torch\.float32 \[3, 4\], expected torch\.bool \[3, 4\]"),
    ],
)
def test_what_is_no_mask_of_the_model_is_named(masks: Any, says: str) -> None:
    net = nn.Linear(4, 3)
    with pytest.raises(RequestError, match=says):
        pbt_bench.apply(net, masks)
    with pytest.raises(RequestError, match=says):
        pbt_bench.diagnose(net, masks, torch.ones(1, 4))


def test_targets_of_any_integer_type_are_class_indices() -> None:
    net, x, y, _ = golden()
    plain, narrow = (pbt_bench.score(net, [(x, labels)], method="snip") for labels in (y, y.to(torch.uint8)))
    assert same(plain, narrow)


@pytest.mark.parametrize("method", ["synflow", "synflow_l2", "ntk_sap"])
def test_a_method_that_puts_real_numbers_refuses_tokens(method: str) -> None:
    net = nn.Sequential(nn.Embedding(10, 6), nn.Flatten(), nn.Linear(24, 5))
    data = [(torch.randint(10, (3, 4)), torch.tensor([0, 1, 2]))]
    assert pbt_bench.score(net, data, method="fts")["2.weight"].shape == (5, 24)
    with pytest.raises(RequestError, match=r"the inputs by real numbers, which cannot be torch\.int64"):
        pbt_bench.score(net, data, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_finite_and_shaped_and_masks_exact(method: str) -> None:
    net, x, y, _ = golden()
    weights = prunable(net)
    scores = pbt_bench.score(net, batches(x, y, 48), method=method)
    assert list(scores) == list(weights)
    assert all(scores[n].shape == weights[n].shape and bool(scores[n].isfinite().all()) for n in weights)
    for sparsity in (0.5, 0.93):
        masks = pbt_bench.prune(net, batches(x, y, 48), method=method, sparsity=sparsity, **ROUNDS)
        assert list(masks) == list(weights)
        assert sum(int((~m).sum()) for m in masks.values()) == int(sparsity * 3832)


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_reproducible_and_independent_of_the_global_generator(method: str) -> None:
    net, x, y, _ = golden()

    def score(seed: int) -> Tensor:
        torch.manual_seed(seed)
        torch.rand(seed)
        found = pbt_bench.score(net, batches(x, y, 48), method=method, generator=torch.Generator().manual_seed(7))
        return torch.cat([s.flatten() for s in found.values()])

    assert torch.equal(score(1), score(2))


@pytest.mark.parametrize("method", METHODS)
def test_the_classifier_can_be_left_out(method: str) -> None:
    net, x, y, _ = golden()
    masks = pbt_bench.prune(net, batches(x, y, 48), method=method, sparsity=0.9, prune_classifier=False, **ROUNDS)
    assert list(masks) == ["conv1.weight", "conv2.weight", "conv3.weight"]
    assert sum(int((~m).sum()) for m in masks.values()) == int(0.9 * 3672)


@pytest.mark.parametrize("method", METHODS)
def test_methods_cite_their_source_and_ask_for_known_statistics(method: str) -> None:
    entry = pruners()[method]
    assert re.search("arXiv|OpenReview|TMLR", entry.cite)
    assert entry.summary
    assert set(entry.needs) <= set(statistics())


def test_method_files_import_one_name_from_the_project() -> None:
    for path in folders()[0].glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pbt_bench"):
                assert (node.module, [a.name for a in node.names]) == ("pbt_bench.pruning", ["pruner"]), path


@pytest.fixture
def fresh() -> Iterator[None]:
    """Read the folders again inside and after the test."""
    module.pruners.cache_clear()
    yield
    module.pruners.cache_clear()


SEVENTH = '''
from pbt_bench.pruning import pruner


@pruner(cite="arXiv:0000.00000")
def flow(weight, gradient):
    """-θ·g"""
    return -weight * gradient
'''


@pytest.mark.usefixtures("fresh")
def test_a_seventh_method_is_one_short_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(SEVENTH.strip().splitlines()) < 10
    (tmp_path / "flow.py").write_text(SEVENTH)
    monkeypatch.setenv("PBT_BENCH_METHODS", str(tmp_path))
    assert "flow" in pruners()
    net, x, y, _ = golden()
    masks = pbt_bench.prune(net, batches(x, y, 48), method="flow", sparsity=0.9)
    assert sum(int((~m).sum()) for m in masks.values()) == 3448


@pytest.mark.usefixtures("fresh")
def test_a_duplicate_name_is_refused_naming_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "again.py").write_text(SEVENTH.replace("flow", "snip"))
    monkeypatch.setenv("PBT_BENCH_METHODS", str(tmp_path))
    with pytest.raises(RequestError, match=r"method 'snip' is defined twice: .*methods/snip.py:\d+ and .*again.py:\d+"):
        pruners()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("text", ["def broken(:", "import no_such_module", "1 / 0"])
def test_a_file_that_does_not_load_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.setenv("PBT_BENCH_METHODS", str(tmp_path))
    with pytest.raises(RequestError, match=r"broken\.py cannot be loaded"):
        pruners()


OPTION = '''
from pbt_bench.pruning import pruner


@pruner(cite="arXiv:0000.00000", original={"signed": True, "batch_size": 4}, original_on={"digits": {"lift": 3}})
def flow(weight, *, signed=False, lift=100.0):
    """θ, or |θ| unless `signed`; plus `lift`."""
    return (weight if signed else weight.abs()) + lift
'''


@pytest.mark.usefixtures("fresh")
def test_keyword_only_arguments_are_fields_of_the_scoring_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flow.py").write_text(OPTION)
    monkeypatch.setenv("PBT_BENCH_METHODS", str(tmp_path))
    assert pruners()["flow"].needs == ("weight",)
    net, x, y, _ = golden()
    weight = net.linear.weight.detach()
    for options, expected in (
        ({"lift": 7, "signed": False}, weight.abs() + 7.0),
        ({"signed": True}, weight + 100),
    ):
        assert torch.equal(pbt_bench.score(net, batches(x, y, 48), method="flow", **options)["linear.weight"], expected)
    run = RunSpec(dataset="digits", model="vgg8", method="flow", sparsity=0.9, seed=0, protocol="original")
    assert resolve("flow", run) == (Scoring(batch_size=4), {"signed": True, "lift": 3.0})
    assert resolve("flow", msgspec.structs.replace(run, dataset="mnist")) == (Scoring(batch_size=4), {"signed": True})


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("signed=False", "signed", r"flow\.py:5: option 'signed' of method 'flow' needs a default"),
        ("signed=False", "signed=()", r"flow\.py:5: option 'signed' of method 'flow' needs a default"),
        ("*, signed", "*names, signed", r"flow\.py:5: method 'flow' has the argument \*names: name every argument"),
        ("weight, *, ", "*, weight=0, ", r"flow\.py:5: method 'flow' has no arguments: they name the statistics"),
        ('"batch_size": 4', '"batch_size": 0', r"flow\.py:5: original: batch_size = 0 must be at least 1"),
    ],
)
def test_an_option_or_an_original_value_that_is_none_is_named_when_the_file_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, says: str
) -> None:
    assert old in OPTION
    (tmp_path / "flow.py").write_text(OPTION.replace(old, new))
    monkeypatch.setenv("PBT_BENCH_METHODS", str(tmp_path))
    with pytest.raises(RequestError, match=says):
        pruners()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("weight,", "weigth,", "unknown statistic 'weigth'; did you mean 'weight'"),
        (
            '"signed": True',
            '"sined": True',
            r"flow\.py: original: method 'flow': unknown option 'sined'; did you mean 'sig",
        ),
        ('"lift": 3', '"lift": "3"', r"original: option 'lift' of method 'flow' = '3' must be a number, not a text"),
        ('"lift": 3', '"lift": float("inf")', r"original: option 'lift' of method 'flow' = inf must be finite"),
    ],
)
def test_statistics_and_original_options_are_checked_before_any_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, says: str
) -> None:
    assert old in OPTION
    (tmp_path / "flow.py").write_text(OPTION.replace(old, new))
    monkeypatch.setenv("PBT_BENCH_METHODS", str(tmp_path))
    with pytest.raises(RequestError, match=says):
        pruners()["flow"].check()


@pytest.mark.parametrize("method", METHODS)
def test_shipped_methods_hold_the_checks_of_own_methods(method: str) -> None:
    pruners()[method].check()
    assert pruners()[method].shipped


def test_unknown_method_lists_the_valid_ones_and_the_nearest() -> None:
    net, x, y, _ = golden()
    with pytest.raises(RequestError, match="unknown method 'snipp'; did you mean 'snip'.*valid: .*fts.*synflow"):
        pbt_bench.score(net, batches(x, y, 48), method="snipp")


def test_unknown_scoring_option_lists_the_valid_ones() -> None:
    net, x, y, _ = golden()
    with pytest.raises(
        RequestError, match="unknown scoring field or option 'fisher_batch'; did you mean 'fisher_batch_size'"
    ):
        pbt_bench.score(net, batches(x, y, 48), method="fts", fisher_batch=1)


@pytest.mark.parametrize(
    ("given", "decimal"),
    [(1 - 0.9, 0.1), (np.float32(0.9), 0.9), (np.float16(0.7), 0.7), (1 - np.float32(0.9), 0.1), (0.1 + 0.2, 0.3),
     (np.float64(0.25), 0.25), (7 / 30, 7 / 30), (1 - 1e-16, 1 - 1e-16)],
)  # fmt: skip
def test_a_computed_sparsity_is_the_decimal_that_it_means(given: float, decimal: float) -> None:
    assert api._decimal_sparsity(given) == decimal


def test_one_minus_nine_tenths_prunes_one_of_ten_weights() -> None:
    net = torch.nn.Linear(5, 2, bias=False)
    sparsities: list[Any] = [1 - 0.9, np.float32(0.1)]
    for sparsity in sparsities:
        masks = pbt_bench.prune(net, [(torch.ones(2, 5), torch.tensor([0, 1]))], method="magnitude", sparsity=sparsity)
        assert int(masks["weight"].sum()) == 9


def test_a_value_of_another_type_is_one_line() -> None:
    net, x, y, _ = golden()
    with pytest.raises(RequestError, match="scoring: fisher_batch_size = 'one' must be a whole number"):
        pbt_bench.score(net, batches(x, y, 48), method="fts", fisher_batch_size="one")
    with pytest.raises(RequestError, match="sparsity = '0.5' must be a number at least 0 and below 1"):
        pbt_bench.prune(net, batches(x, y, 48), method="fts", sparsity="0.5")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="no masks"):
        pbt_bench.diagnose(net, {}, x)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda weight: weight / 0, "method 'bad', layer 'conv1.weight': 216 of 216 scores are NaN or infinite"),
        (lambda weight: weight.flatten(), "layer 'conv1.weight': scores have shape \\[216\\]"),
        (lambda weight: 3.0, "layer 'conv1.weight': scores have float"),
    ],
)
def test_bad_scores_are_errors_that_name_method_and_layer(function: Any, message: str) -> None:
    """Exclude finding F14: a rank for NaN."""
    pruners()
    function.__name__ = "bad"
    pruner(cite="arXiv")(function)
    net, x, y, _ = golden()
    with pytest.raises(ScoreError, match=message):
        pbt_bench.prune(net, batches(x, y, 48), method="bad", sparsity=0.5)


@pytest.mark.usefixtures("fresh")
def test_a_method_cannot_change_the_model_or_the_shared_statistics() -> None:
    pruners()

    @pruner(cite="arXiv")
    def vandal(weight: Tensor, gradient: Tensor) -> Tensor:
        weight.zero_()
        return gradient.abs_()

    net, x, y, _ = golden()
    before = copy.deepcopy(net.state_dict())
    from pbt_bench.pruning.scoring import Scorer
    from pbt_bench.spec import Scoring

    scorer = Scorer(net, batches(x, y, 48), Scoring(), 0)
    scorer.scores("vandal")
    assert same(before, net.state_dict())
    clean = pbt_bench.score(net, batches(x, y, 48), method="snip")
    assert same(clean, dict(scorer.scores("snip")))


def test_prunable_weights_are_found_by_type() -> None:
    """Exclude finding F13: a module named `shortcut` may contain normalisation."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shortcut = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
            self.conv_norm = nn.GroupNorm(2, 4)
            self.linear_embedding = nn.Embedding(5, 4)
            self.head = nn.Conv1d(4, 2, 1)

    assert list(prunable(Named())) == ["shortcut.0.weight", "head.weight"]
    assert list(prunable(Named(), prune_classifier=False)) == ["shortcut.0.weight"]


def test_models_without_prunable_weights_and_empty_data_are_refused() -> None:
    with pytest.raises(RequestError, match="no prunable weights"):
        pbt_bench.score(nn.BatchNorm1d(3), [(torch.zeros(2, 3), torch.zeros(2).long())], method="snip")
    with pytest.raises(RequestError, match="no scoring data"):
        pbt_bench.score(nn.Linear(3, 2), [], method="snip")
    with pytest.raises(RequestError, match="sparsity = 1.2"):
        pbt_bench.prune(nn.Linear(3, 2), [], method="snip", sparsity=1.2)


def test_random_scores_differ_by_generator() -> None:
    net, x, y, _ = golden()
    a, b = (
        pbt_bench.score(net, batches(x, y, 48), method="random", generator=torch.Generator().manual_seed(s))
        for s in (1, 2)
    )
    assert not torch.equal(a["conv1.weight"], b["conv1.weight"])
