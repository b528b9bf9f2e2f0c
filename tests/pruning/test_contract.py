"""Tests of `pbt-bench check`: it accepts correct files, and names what is wrong with others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pbt_bench.cli import main
from pbt_bench.pruning.plugins import pruners

GOOD = '''
import torch
from pbt_bench.pruning import pruner, scope, statistic


@statistic(cite="none")
def input_scale(task, *, power=1.0):
    """The mean magnitude of the inputs."""
    scale = torch.cat([x.flatten() for x, _ in task.batches]).abs().mean() ** power
    return {name: torch.full_like(weight, float(scale)) for name, weight in task.parameters.items()}


@pruner(cite="none", scope="two_thirds")
def scaled(weight, input_scale, *, sign=1.0):
    """A constant times |θ|."""
    return sign * weight.abs() * input_scale


@scope(cite="none")
def two_thirds(shapes, density):
    """Twice the density in the first layer."""
    return {name: 2 if index == 0 else 1 for index, name in enumerate(shapes)}


@statistic(cite="none", data=False, per_sparsity=True)
def first_weights(task):
    """The first weights, as many as are kept."""
    mask, left = {}, task.kept
    for name, weight in task.parameters.items():
        flat = torch.arange(weight.numel()) < left
        mask[name], left = flat.view(weight.shape), left - int(flat.sum())
    return mask


@pruner(cite="none")
def keep_first(first_weights):
    """A mask."""
    return first_weights
'''
HEAD = """
import random
import torch
from pbt_bench.pruning import pruner, scope, statistic
"""
STATISTIC = """
@statistic(cite="none"{options})
def own(task):
    return {{name: {value} for name, weight in task.parameters.items()}}
"""
METHOD = """
@pruner(cite="none")
def bad(own):
    return own
"""
BAD = {
    "nan": (
        '@pruner(cite="none")\ndef bad(weight):\n    return weight / 0\n',
        "method 'bad': finite scores, exact masks at 7 sparsities: vgg8: method 'bad', layer 'features.0.weight': ",
    ),
    "error": (
        '@pruner(cite="none")\ndef bad(weight):\n    return weight.absolut()\n',
        "vgg8: line 7: AttributeError: 'Tensor' object has no attribute 'absolut'",
    ),
    "unknown statistic": (
        '@pruner(cite="none")\ndef bad(weigth):\n    return weigth\n',
        "known statistics and scope, valid options: vgg8: unknown statistic 'weigth'; did you mean 'weight'?",
    ),
    "unknown scope": (
        '@pruner(cite="none", scope="unifrom")\ndef bad(weight):\n    return weight\n',
        "known statistics and scope, valid options: vgg8: unknown scope 'unifrom'; did you mean 'uniform'?",
    ),
    "two options of one name": (
        '@pruner(cite="none")\ndef bad(hessian_gradient, *, temperature=1.0):\n    return hessian_gradient\n',
        "method 'bad': option 'temperature' of method 'bad' and of statistic 'hessian_gradient' differ",
    ),
    "unknown option in original": (
        '@pruner(cite="none", original={"alfa": 1.0})\ndef bad(weight, *, alpha=0.5):\n    return weight\n',
        "original: method 'bad': unknown option 'alfa'; did you mean 'alpha'?",
    ),
    "hook": (
        STATISTIC.format(options="", value="weight.detach() + hook(task)")
        + "def hook(task):\n    task.model.register_forward_hook(print)\n    return 0\n",
        "statistic 'own': the model is bit-identical afterwards: vgg8: module '' is changed",
    ),
    "new parameter": (
        STATISTIC.format(options="", value="weight.detach() + replaced(task)")
        + "def replaced(task):\n    layer = task.model.classifier\n"
        "    layer.bias = torch.nn.Parameter(layer.bias.detach() + 1)\n    return 0\n",
        "statistic 'own': the model is bit-identical afterwards: vgg8: classifier.bias is changed",
    ),
    "global generator": (
        STATISTIC.format(options="", value="torch.rand_like(weight)") + METHOD,
        "method 'bad': independent of the global random state: vgg8: layer 'features.0.weight' differs",
    ),
    "python's generator": (
        STATISTIC.format(options="", value="weight.detach() * random.random()"),
        "statistic 'own': independent of the global random state: vgg8: layer 'features.0.weight' differs",
    ),
    "calls that differ": (
        STATISTIC.format(options="", value="weight.detach() * next(COUNTER)") + "COUNTER = iter(range(99999))\n",
        "statistic 'own': equal in two calls: vgg8: layer 'features.0.weight' differs",
    ),
    "wrong count": (
        STATISTIC.format(options=", per_sparsity=True", value="weight > task.sparsity / 9") + METHOD,
        "exact masks at 7 sparsities: vgg8: method 'bad': its masks keep ",
    ),
    "sparsity without per_sparsity": (
        STATISTIC.format(options="", value="weight.detach() * (1 - task.sparsity)"),
        "(task.sparsity and task.kept are set with per_sparsity=True only)",
    ),
    "per_sparsity without sparsity": (
        STATISTIC.format(options=", per_sparsity=True", value="weight.detach()"),
        "per_sparsity=True: depends on the sparsity: vgg8: its values are equal at sparsities 0.3 and 0.9",
    ),
    "data": (
        STATISTIC.format(options=", data=False", value="weight.detach() + task.batches[0][0].mean()"),
        "data=False: equal for other data: vgg8: layer 'features.0.weight' differs",
    ),
    "float64": (
        STATISTIC.format(options="", value="weight.detach().float()"),
        "float64: vgg8: layer 'features.0.weight' is torch.float32 for a network of torch.float64",
    ),
    "infinite statistic": (
        STATISTIC.format(options="", value="weight.detach() / 0"),
        "finite values of the weights' shapes: vgg8: layer 'features.0.weight': 432 of 432 values are NaN or infinite",
    ),
    "shape": (
        STATISTIC.format(options="", value="weight.detach().flatten()"),
        "statistic 'own', layer 'features.0.weight': shape [432], expected a tensor of shape [16, 3, 3, 3]",
    ),
    "negative share": (
        '@scope(cite="none")\ndef bad(shapes, density):\n    return dict.fromkeys(shapes, -1)\n',
        "scope 'bad': share of 'features.0.weight' is -1, not a number of at least 0",
    ),
    "missing layer": (
        '@scope(cite="none")\ndef bad(shapes, density):\n    return dict.fromkeys(list(shapes)[:-1], 1)\n',
        "scope 'bad': share of 'classifier.weight' is None, not a number of at least 0",
    ),
    "random shares": (
        '@scope(cite="none")\ndef bad(shapes, density):\n    return {name: random.random() for name in shapes}\n',
        "weights twice",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Forget the files of the other tests."""
    pruners.cache_clear()
    yield
    pruners.cache_clear()


def check(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    (folder / "mine.py").write_text(text)
    code = main(["check", str(folder / "mine.py")])
    said = capsys.readouterr()
    return code, (said.out + said.err).splitlines()


def test_a_correct_file_passes_every_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = check(tmp_path, GOOD, capsys)
    assert code == 0
    assert all(line.startswith("ok  ") for line in lines), lines
    assert {line.split(":")[0].removeprefix("ok     ") for line in lines} == {
        "method 'scaled'", "method 'keep_first'", "statistic 'input_scale'", "statistic 'first_weights'",
        "scope 'two_thirds'",
    }  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_fault_is_one_line_that_names_it(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, says = BAD[case]
    code, lines = check(tmp_path, HEAD + text, capsys)
    assert code == 1
    assert [line for line in lines if line.startswith("wrong") and says in line], lines


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def broken(:", "mine.py cannot be loaded: SyntaxError"),
        ("import no_such_module", "mine.py cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1", "mine.py defines no method, statistic or scope"),
        (HEAD + '@pruner(cite="none")\ndef snip(weight):\n    return weight\n', "method 'snip' is defined twice"),
    ],
)
def test_a_file_that_does_not_load_is_one_line_and_exit_2(
    tmp_path: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = check(tmp_path, text, capsys)
    assert (code, len(lines)) == (2, 1)
    assert says in lines[0]


def test_a_missing_file_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "lost.py")]) == 2
    assert "lost.py is not a Python file" in capsys.readouterr().err


def test_a_method_that_trains_is_left_to_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = '@statistic(cite="none", trains=True)\ndef trained(task):\n    return dict(task.train().state)\n'
    code, lines = check(
        tmp_path, f'{HEAD}{text}@pruner(cite="none")\ndef ticket(trained):\n    return trained\n', capsys
    )
    assert code == 0
    assert [line for line in lines if "not computed, because only a run of a grid can train" in line] == lines[1:]
