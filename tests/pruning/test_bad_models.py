"""Networks, data and options that cannot be scored as they are: one line, before a wrong mask is made."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import pytest
import torch
from networks import batches, golden, scored_methods
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, prune, spectral_norm

import pbt_bench
from pbt_bench.errors import RequestError, note_once
from pbt_bench.pruning.api import _OF_GRIDS
from pbt_bench.pruning.plugins import pruners
from pbt_bench.spec import Scoring

METHODS = scored_methods()
RANDOM = [name for name in METHODS if pruners()[name].needs == ("uniform",)]
SECOND_DERIVATIVES = ["grad_flow", "grasp", "hts", "hutchinson_diagonal", "hutchinson_pruning", "prospr"]
X, Y = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
DATA = [(X, Y)]


def one_line(call: Callable[[], object]) -> str:
    with pytest.raises(RequestError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def net(*, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5) if norm else nn.Identity(), nn.ReLU(), nn.Linear(5, 3))


@pytest.mark.parametrize("option", sorted((set(_OF_GRIDS) - {"batches"}) & set(Scoring.__struct_fields__)))
def test_options_that_only_a_grid_reads_are_refused(option: str) -> None:
    value: Any = {"augment": True, "order": "class", "new_batches": True}.get(option, 1)
    says = f"scoring option '{option}' has no effect here: `batches` decides"
    assert says in one_line(lambda: pbt_bench.score(net(), DATA, method="snip", **{option: value}))
    assert says in one_line(lambda: pbt_bench.prune(net(), DATA, method="random", sparsity=0.5, **{option: value}))


def test_every_option_of_a_grid_that_chooses_data_is_known() -> None:
    assert {"samples_per_class", "most_samples", "batch_size", "augment"} <= set(Scoring.__struct_fields__)
    assert set(_OF_GRIDS) >= {"samples_per_class", "most_samples", "batch_size", "augment"}
    assert "augment" not in one_line(lambda: pbt_bench.score(net(), DATA, method="snip", batchnrm="batch"))


class Answers(nn.Module):
    """Wraps its logits."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.wrap = nn.Linear(6, 3), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.layer(x))


class Pair(NamedTuple):
    """As torchvision's Inception answers while training."""

    logits: Tensor
    aux: None


class ModelOutput(OrderedDict[str, Tensor]):
    """As transformers answers: attributes are items."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (lambda z: (z, None), "tuple"),
        (lambda z: [z], "list"),
        (lambda z: {"logits": z}, "dict"),
        (lambda z: ModelOutput(logits=z), "ModelOutput"),
        (lambda z: Pair(z, None), "Pair"),
        (lambda z: None, "NoneType"),
    ],
)
def test_an_output_that_is_no_tensor_is_named(wrap: Callable[[Tensor], Any], kind: str) -> None:
    model = Answers(wrap)
    says = f"Answers: its output is {kind}, not a tensor: wrap it to return the logits"
    for method in sorted(set(METHODS) - {"gmp", "lamp", "magnitude", *RANDOM}):
        assert one_line(lambda method=method: pbt_bench.score(model, DATA, method=method)) == says  # type: ignore[misc]
    masks = pbt_bench.prune(model, DATA, method="magnitude", sparsity=0.5)
    assert one_line(lambda: pbt_bench.diagnose(model, masks, X)) == says


@pytest.mark.parametrize("example", [torch.ones(1, 7), torch.ones(6), torch.ones(2, 3, 4)])
def test_an_example_that_the_network_does_not_take_is_one_line(example: Tensor) -> None:
    masks = pbt_bench.prune(net(), DATA, method="random", sparsity=0.5)
    says = f"example: Sequential does not take inputs of shape {tuple(example[:1].shape)}, float32: "
    assert one_line(lambda: pbt_bench.diagnose(net(), masks, example)).startswith(says)


def inner(model: nn.Module) -> nn.Module:
    """A network of which `model` is a part."""
    return nn.Sequential(model, nn.Identity())


def in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return net()


def compiled_in_place() -> nn.Module:
    model = net()
    model.compile()
    return model


def distributed() -> nn.Module:
    """Made without its constructor, which needs a process group."""
    model = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(model)
    model.module = net()
    return model


WRONG: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "DataParallel": (lambda: nn.DataParallel(net()), "the model is DataParallel: pass its .module"),
    "a part in DataParallel": (lambda: inner(nn.DataParallel(net())), "0 is DataParallel: pass its .module"),
    "DistributedDataParallel": (distributed, "the model is DistributedDataParallel: pass its .module"),
    "compiled in place": (compiled_in_place, "the model is Sequential of torch.compile: pass the module"),
    "scripted": (lambda: torch.jit.script(net()), "the model is RecursiveScriptModule of torch.jit: pass the module"),
    "traced": (lambda: torch.jit.trace(net(), X), "the model is TopLevelTracedModule of torch.jit: pass the module"),
    "compiled": (
        lambda: cast(nn.Module, torch.compile(net())),
        "the model is OptimizedModule of torch.compile: pass the module",
    ),
    "LazyLinear": (lambda: nn.Sequential(nn.LazyLinear(3)), "0.weight has no shape yet: run the model on one batch"),
    "LazyBatchNorm": (
        lambda: nn.Sequential(nn.Linear(6, 3), nn.LazyBatchNorm1d()),
        "1.weight has no shape yet: run the model on one batch",
    ),
    "LazyBatchNorm without weights": (
        lambda: nn.Sequential(nn.Linear(6, 3), nn.LazyBatchNorm1d(affine=False)),
        "1.running_mean has no shape yet: run the model on one batch",
    ),
    "meta": (lambda: net().to("meta"), "0.weight is on the meta device, without values: load the weights first"),
    "inference mode": (in_inference_mode, "0.weight was made in torch.inference_mode, so it has no gradient"),
}


@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:`torch.jit", "ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize(("make", "says"), WRONG.values(), ids=WRONG)
def test_a_network_that_is_wrapped_compiled_or_without_values_is_refused_everywhere(
    make: Callable[[], nn.Module], says: str
) -> None:
    model = make()
    masks = {name: torch.ones(p.shape) > 0 for name, p in net().named_parameters() if p.dim() == 2}
    for call in (
        *(lambda m=m: pbt_bench.score(model, DATA, method=m) for m in ("snip", "synflow", "magnitude", "random")),
        lambda: pbt_bench.prune(model, DATA, method="grasp", sparsity=0.5),
        lambda: pbt_bench.apply(model, masks),
        lambda: pbt_bench.diagnose(model, masks, X),
    ):
        assert says in one_line(call)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused(dtype: torch.dtype) -> None:
    model = net()
    model[3].weight = nn.Parameter(torch.ones(3, 5).to(dtype), requires_grad=False)
    for method in METHODS:
        line = one_line(lambda method=method: pbt_bench.score(model, DATA, method=method))  # type: ignore[misc]
        assert line == f"3.weight is {str(dtype)[6:]}: only floating-point weights can be scored"


def test_inference_mode_is_refused_and_no_grad_is_not() -> None:
    model = net()
    plain = pbt_bench.score(model, DATA, method="grasp")
    with torch.no_grad():
        assert torch.equal(pbt_bench.score(model, DATA, method="grasp")["3.weight"], plain["3.weight"])
    masks = pbt_bench.prune(model, DATA, method="snip", sparsity=0.5)
    with torch.inference_mode():
        made = [(X + 0, Y + 0)]
        for method in METHODS:
            says = one_line(lambda method=method: pbt_bench.score(model, DATA, method=method))  # type: ignore[misc]
            assert "torch.inference_mode is on" in says
        assert "torch.inference_mode is on" in one_line(lambda: pbt_bench.diagnose(model, masks, X))
    for method in METHODS:
        found, expected = (pbt_bench.score(model, data, method=method) for data in (made, DATA))
        assert torch.equal(found["3.weight"], expected["3.weight"]), "data of inference mode are data"


@pytest.mark.parametrize("method", METHODS)
def test_a_function_without_second_derivatives_is_named(method: str) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Hardsigmoid(), nn.Linear(5, 3))
    if method in SECOND_DERIVATIVES:
        says = one_line(lambda: pbt_bench.score(model, DATA, method=method))
        assert "uses a function without second derivatives (derivative for aten::hardsigmoid_backward" in says
    else:
        assert pbt_bench.score(model, DATA, method=method).keys() == {"0.weight", "2.weight"}


REPARAMETRISED: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "pruned before": (lambda m: prune.l1_unstructured(m, "weight", amount=0.2), "weight_orig"),
    "weight_norm": (parametrizations.weight_norm, "parametrizations.weight.original0, 0.parametrizations.weight.orig"),
    "weight_norm, old": (nn.utils.weight_norm, "weight_g, 0.weight_v"),
    "spectral_norm": (parametrizations.spectral_norm, "parametrizations.weight.original"),
    "spectral_norm, old": (spectral_norm, "weight_orig"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize(("change", "name"), REPARAMETRISED.values(), ids=REPARAMETRISED)
def test_layers_that_compute_their_weight_are_named_with_what_to_do(
    change: Callable[[nn.Module], object], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    note_once.cache_clear()
    model = net()
    change(model[0])
    assert pbt_bench.score(model, DATA, method="magnitude").keys() == {"3.weight"}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: not prunable, and not counted in the sparsity: 0.{name}")
    assert "make it plain with torch.nn.utils.prune.remove" in line
    change(model[3])
    line = one_line(lambda: pbt_bench.score(model, DATA, method="magnitude"))
    assert line.startswith(f"Sequential has no prunable weights: 0.{name}")
    assert "3.weight_" in line or "3.parametrizations.weight" in line
    assert "make it plain with torch.nn.utils.prune.remove" in line


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
def test_a_model_in_half_precision_has_the_scores_of_its_weights_in_float32(method: str, dtype: torch.dtype) -> None:
    model, x, y, _ = golden()
    half, inputs = copy.deepcopy(model).to(dtype), x.to(dtype)
    before = copy.deepcopy(half.state_dict())
    found = pbt_bench.score(half, batches(inputs, y, 48), method=method)
    expected = pbt_bench.score(copy.deepcopy(half).float(), batches(inputs.float(), y, 48), method=method)
    assert all(torch.equal(found[name], score) for name, score in expected.items())
    masks = pbt_bench.prune(half, batches(inputs, y, 48), method=method, sparsity=0.9, rounds=3)
    assert sum(int(mask.sum()) for mask in masks.values()) == -(-sum(m.numel() for m in masks.values()) // 10)
    assert all(torch.equal(t, before[name]) and t.dtype == before[name].dtype for name, t in half.state_dict().items())
    pbt_bench.apply(half, masks)
    assert pbt_bench.diagnose(half, masks, inputs).kept == sum(int(mask.sum()) for mask in masks.values())


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_model_in_half_precision_that_has_no_copy_is_one_line() -> None:
    model = net()
    model[0] = nn.utils.weight_norm(model[0])
    assert "in half precision and has no copy in float32" in one_line(
        lambda: pbt_bench.score(model.bfloat16(), DATA, method="snip")
    )


@pytest.mark.parametrize("batchnorm", ["batch", "calibrated", "running"])
@pytest.mark.parametrize("method", METHODS)
def test_a_last_batch_of_one_sample_is_joined_to_the_one_before_it(method: str, batchnorm: str) -> None:
    model = net(norm=True)
    options: dict[str, Any] = {"batchnorm": batchnorm} | ({"inner_steps": 1} if method == "prospr" else {})
    if batchnorm == "batch":
        options["fisher_batch_size"] = 3
    found = pbt_bench.score(model, batches(X[:7], Y[:7], 3, 3, 1), method=method, **options)
    if batchnorm == "batch":
        options["fisher_batch_size"] = 4
    sizes = (3, 3, 1) if batchnorm == "running" and method != "ntk_sap" else (3, 4)
    expected = pbt_bench.score(model, batches(X[:7], Y[:7], *sizes), method=method, **options)
    assert all(torch.equal(found[name], score) for name, score in expected.items())


@pytest.mark.parametrize("batchnorm", ["batch", "calibrated"])
def test_batches_too_small_for_batch_normalisation_are_one_line(batchnorm: str) -> None:
    for method in ("snip", "grasp", "prospr"):
        for sizes in ((1,), (1, 2)):
            data = batches(X[: sum(sizes)], Y[: sum(sizes)], *sizes)
            line = one_line(lambda d=data, m=method: pbt_bench.score(net(norm=True), d, method=m, batchnorm=batchnorm))  # type: ignore[misc]
            assert "batch normalisation by the batch needs larger batches" in line
