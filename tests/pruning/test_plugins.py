"""Methods, statistics, options, scopes and masks of one's own, through the library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from networks import batches, golden
from torch import Tensor

import pbt_bench
from pbt_bench.errors import RequestError, ScoreError
from pbt_bench.pruning import plugins, pruner, scope, statistic
from pbt_bench.pruning.masks import quotas
from pbt_bench.pruning.plugins import pruners, statistics
from pbt_bench.pruning.scoring import Scorer
from pbt_bench.pruning.task import Task, Tensors, shared_pass
from pbt_bench.spec import Scoring

CALLS: list[str] = []
FILE = '''
import torch
from pbt_bench.pruning import pruner, scope, statistic


@statistic(cite="none", data=False)
def column_norm(task, *, power=2.0):
    """Norm of every input's weights."""
    return {n: w.abs().pow(power).sum(0, keepdim=True).pow(1 / power).expand_as(w) for n, w in task.weights.items()}


@scope(cite="none")
def by_width(shapes, density):
    """Shares by the number of outputs."""
    return {name: shape[0] for name, shape in shapes.items()}


@pruner(cite="none", scope="by_width")
def columns(weight, column_norm, *, alpha=0.5):
    """alpha·|θ| + (1 - alpha)·‖column‖"""
    return alpha * weight.abs() + (1 - alpha) * column_norm
'''


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    """Statistics and methods that are registered for one test."""
    pruners()
    CALLS.clear()

    @shared_pass
    def both(task: Task, *, factor: float) -> Tensors:
        CALLS.append(f"both {factor}")
        return {name: factor * weight for name, weight in task.weights.items()}

    @statistic(cite="none")
    def first_half(task: Task, *, factor: float = 2.0) -> Tensors:
        task.notes["factor"] = factor
        return both(task, factor=factor)

    @statistic(cite="none")
    def second_half(task: Task, *, factor: float = 2.0) -> Tensors:
        return {name: -value for name, value in both(task, factor=factor).items()}

    @statistic(cite="none", data=False, per_sparsity=True)
    def search(task: Task, *, missing: int = 0) -> Tensors:
        CALLS.append(f"search {task.sparsity} {task.kept}")
        assert task.kept is not None
        flat = torch.zeros(sum(p.numel() for p in task.parameters.values()))
        flat[: task.kept - missing] = 1
        parts = flat.split([p.numel() for p in task.parameters.values()])
        return {name: part.view_as(p) for part, (name, p) in zip(parts, task.parameters.items(), strict=True)}

    @statistic(cite="none")
    def wrong_shape(task: Task) -> Mapping[str, Tensor]:
        return {name: weight.flatten() for name, weight in task.weights.items()}

    @pruner(cite="none")
    def halves(first_half: Tensor, second_half: Tensor) -> Tensor:
        return first_half.abs() + second_half

    @pruner(cite="none")
    def searched(search: Tensor) -> Tensor:
        return search > 0

    @pruner(cite="none")
    def misshapen(wrong_shape: Tensor) -> Tensor:
        return wrong_shape

    yield
    for registry in (plugins._PRUNERS, plugins._STATISTICS, plugins._SCOPES):
        registry.remove_from(Path(__file__))


def test_statistics_of_one_pass_share_it_for_each_value_of_its_options() -> None:
    net, x, y, _ = golden()
    scorer = Scorer(net, batches(x, y, 48), Scoring(), 0)
    for options in ({}, {"factor": 3.0}, {}):
        for sparsity in (0.5, 0.9):
            notes = scorer.prune("halves", sparsity, options=options).notes
            assert notes == {"first_half": {"factor": options.get("factor", 2.0)}}
    assert CALLS == ["both 2.0", "both 3.0"]


def test_a_search_is_told_its_target_and_its_mask_is_the_result() -> None:
    net, x, y, _ = golden()
    for sparsity, kept in ((0.5, 1916), (0.9, 384)):
        masks = pbt_bench.prune(net, batches(x, y, 48), method="searched", sparsity=sparsity)
        assert torch.cat([mask.flatten() for mask in masks.values()]).nonzero().flatten().tolist() == list(range(kept))
    assert CALLS == ["search 0.5 1916", "search 0.9 384"]
    with pytest.raises(RequestError, match="'searched' has no scores without a sparsity: search depends on it"):
        pbt_bench.score(net, batches(x, y, 48), method="searched")


def test_a_mask_with_another_number_or_a_scope_is_refused() -> None:
    net, x, y, _ = golden()
    data = batches(x, y, 48)
    with pytest.raises(ScoreError, match=r"its masks keep 381 weights, not the 384 of sparsity 0\.9"):
        pbt_bench.prune(net, data, method="searched", sparsity=0.9, missing=3)
    with pytest.raises(RequestError, match="scope = 'erk' changes nothing for method 'searched': it returns masks"):
        pbt_bench.prune(net, data, method="searched", sparsity=0.9, scope="erk")
    with pytest.raises(RequestError, match="pattern = '2:4' changes nothing for method 'searched': it returns masks"):
        pbt_bench.prune(net, data, method="searched", sparsity=0.5, pattern="2:4")


def test_a_statistic_of_another_shape_is_named_with_its_layer() -> None:
    net, x, y, _ = golden()
    says = r"statistic 'wrong_shape', layer 'conv1.weight': shape \[216\], expected a tensor of shape \[8, 3, 3, 3\]"
    with pytest.raises(RequestError, match=says):
        pbt_bench.score(net, batches(x, y, 48), method="misshapen")


def test_a_file_is_a_method_with_its_statistics_and_scopes(tmp_path: Path) -> None:
    net, x, y, _ = golden()
    data = batches(x, y, 48)
    path = tmp_path / "columns.py"
    path.write_text(FILE)
    weight = net.linear.weight.detach()
    norm = weight.abs().pow(3).sum(0, keepdim=True).pow(1 / 3).expand_as(weight)
    for method in (path, str(path)):
        found = pbt_bench.score(net, data, method=method, options={"alpha": 0.25, "power": 3})
        torch.testing.assert_close(found["linear.weight"], 0.25 * weight.abs() + 0.75 * norm)
    masks = pbt_bench.prune(net, data, method=path, sparsity=0.9)
    sizes = {name: tuple(mask.shape) for name, mask in masks.items()}
    assert {name: int(mask.sum()) for name, mask in masks.items()} == quotas(sizes, 384, "by_width")
    path.write_text(FILE.replace("alpha * weight.abs() +", "0 * weight.abs() +"))
    changed = pbt_bench.score(net, data, method=path)
    torch.testing.assert_close(
        changed["linear.weight"], 0.5 * weight.square().sum(0, keepdim=True).sqrt().expand_as(weight)
    )
    plugins._SCOPES.remove_from(path)
    plugins._STATISTICS.remove_from(path)
    plugins._PRUNERS.remove_from(path)


def test_a_file_with_two_methods_is_refused(tmp_path: Path) -> None:
    net, x, y, _ = golden()
    path = tmp_path / "two.py"
    path.write_text(FILE + FILE.split("\n\n\n")[-1].replace("def columns", "def rows"))
    with pytest.raises(
        RequestError, match=r"two\.py: expected one method, found 2 \(columns, rows\): pass the function"
    ):
        pbt_bench.score(net, batches(x, y, 48), method=path)
    for registry in (plugins._PRUNERS, plugins._STATISTICS, plugins._SCOPES):
        registry.remove_from(path)


def test_a_function_is_a_method_registered_or_not() -> None:
    net, x, y, _ = golden()
    data = batches(x, y, 48)

    def half(weight: Tensor, *, power: float = 1.0) -> Tensor:
        return weight.abs() ** power / 2

    found = pbt_bench.score(net, data, method=half, options={"power": 2})
    torch.testing.assert_close(found["linear.weight"], net.linear.weight.detach().square() / 2)
    snip = pbt_bench.score(net, data, method=pruners()["snip"].function)
    assert torch.equal(snip["linear.weight"], pbt_bench.score(net, data, method="snip")["linear.weight"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"probess": 3}, "method 'hts': unknown scoring field or option 'probess'; did you mean 'probes'"),
        ({"probes": 0}, "options: probes = 0 must be at least 1"),
        ({"probes": 2.5}, "option 'probes' of statistic 'hessian_diagonal' = 2.5 must be a whole number"),
        ({"curvature": "gn"}, "unknown curvature value 'gn'; did you mean 'ggn'"),
        ({"probe_tolerance": float("inf")}, "probe_tolerance' of statistic 'hessian_diagonal' = inf must be finite"),
    ],
)
def test_a_bad_option_is_one_line(options: dict[str, object], says: str) -> None:
    net, x, y, _ = golden()
    with pytest.raises(RequestError, match=says):
        pbt_bench.score(net, batches(x, y, 48), method="hts", options=options)


@pytest.mark.parametrize(
    ("share", "says"),
    [
        (lambda name: -1, r"scope 'odd': share of 'a' is -1, not a number of at least 0"),
        (lambda name: float("nan"), r"share of 'a' is nan"),
        (lambda name: None if name == "b" else 1, r"share of 'b' is None"),
    ],
)
def test_a_share_that_is_no_share_is_named(share: object, says: str) -> None:
    @scope(cite="none")
    def odd(shapes: Mapping[str, tuple[int, ...]], density: float) -> Mapping[str, object]:
        return {name: value for name in shapes if (value := share(name)) is not None}  # type: ignore[operator]

    with pytest.raises(RequestError, match=says):
        quotas({"a": (3, 4), "b": (5,)}, 7, "odd")


def test_layers_without_a_share_get_weights_only_when_the_others_are_full() -> None:
    @scope(cite="none")
    def first(shapes: Mapping[str, tuple[int, ...]], density: float) -> Mapping[str, float]:
        return {name: float(name == "a") for name in shapes}

    assert quotas({"a": (3, 4), "b": (5,), "c": (5,)}, 7, "first") == {"a": 7, "b": 0, "c": 0}
    assert quotas({"a": (3, 4), "b": (5,), "c": (5,)}, 16, "first") == {"a": 12, "b": 2, "c": 2}


def test_names_are_registered_once_and_forgotten_with_their_file() -> None:
    assert "search" in statistics()
    with pytest.raises(RequestError, match=r"statistic 'search' is defined twice: .*test_plugins\.py:\d+ and "):

        @statistic(cite="none")
        def search(task: Task) -> Tensors:
            return task.weights
