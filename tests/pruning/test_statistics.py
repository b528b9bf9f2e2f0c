"""Every statistic against its definition, computed the slow way in float64."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from networks import Odd, batches, golden, mlp
from torch import Tensor, nn

from pbt_bench.errors import RequestError
from pbt_bench.models.model_state import preserved
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning.batchnorm import set_mode
from pbt_bench.pruning.plugins import statistics
from pbt_bench.pruning.statistic_values import compute
from pbt_bench.pruning.task import Task
from pbt_bench.spec import Scoring


def measure(
    model: nn.Module, data: list[tuple[Tensor, Tensor]], *names: str, **scoring: object
) -> Mapping[str, Mapping[str, Tensor]]:
    fields = {name: scoring.pop(name) for name in [*scoring] if name in Scoring.__struct_fields__}
    task = Task(model, prunable(model), data, Scoring(**fields), seed=0)  # type: ignore[arg-type]
    with preserved(model):
        return {name: each.values for name, each in compute(task, names, scoring).items()}


def group_gradients(model: nn.Module, x: Tensor, y: Tensor, size: int) -> dict[str, Tensor]:
    """Summed gradients of consecutive groups of `size` samples, stacked, by plain autograd."""
    model.eval()
    weights = prunable(model)
    rows = []
    for start in range(0, len(y), size):
        loss = F.cross_entropy(model(x[start : start + size]), y[start : start + size], reduction="sum")
        rows.append(torch.autograd.grad(loss, list(weights.values())))
    return {name: torch.stack(column) for name, column in zip(weights, zip(*rows, strict=True), strict=True)}


def networks() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    torch.manual_seed(1)
    conv, x, y, _ = golden()
    return {
        "convnet": (conv.double(), x[:23].double(), y[:23]),
        "mlp": (mlp(6, 9, 4), torch.randn(23, 6).double(), torch.randint(4, (23,))),
        "odd": (Odd().double(), torch.randn(23, 4, 9, 7).double(), torch.randint(5, (23,))),
        "volume": (
            nn.Sequential(
                nn.Conv3d(2, 3, 2, padding=1, stride=(1, 2, 1)), nn.Flatten(), nn.Linear(3 * 4 * 2 * 4, 3)
            ).double(),
            torch.randn(23, 2, 3, 3, 3).double(),
            torch.randint(3, (23,)),
        ),
    }


@pytest.mark.parametrize("sizes", [(23,), (10, 10, 3), (7, 16)])
@pytest.mark.parametrize("group", [1, 4, 23, 40])
@pytest.mark.parametrize("name", ["convnet", "mlp", "odd", "volume"])
def test_gradient_and_fisher_equal_plain_autograd(name: str, group: int, sizes: tuple[int, ...]) -> None:
    model, x, y = networks()[name]
    found = measure(model, batches(x, y, *sizes), "gradient", "fisher_diagonal", fisher_batch_size=group)
    expected = group_gradients(model, x, y, group)
    for layer, rows in expected.items():
        torch.testing.assert_close(found["gradient"][layer], rows.sum(0) / len(y), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            found["fisher_diagonal"][layer], rows.square().sum(0) / len(y), rtol=1e-9, atol=1e-14
        )


class SequenceFirst(nn.Module):
    """A model whose linear layer does not have the samples first, and a weight that is used by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.byhand = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.inner(x.transpose(0, 1))).transpose(0, 1).mean(1)
        return x @ self.byhand.weight.t()


def test_unusual_models_fall_back_to_the_definition_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = SequenceFirst().double()
    x, y = torch.randn(6, 6, 4).double(), torch.randint(3, (6,))  # as many tokens as samples: shapes alone cannot tell
    found = measure(model, batches(x, y, 6), "gradient", "fisher_diagonal", fisher_batch_size=2)
    for layer, rows in group_gradients(model, x, y, 2).items():
        torch.testing.assert_close(found["gradient"][layer], rows.sum(0) / 6)
        torch.testing.assert_close(found["fisher_diagonal"][layer], rows.square().sum(0) / 6)
    said = capsys.readouterr().err
    assert "byhand.weight" in said
    assert "inner.weight" in said


def test_gradient_has_the_same_bits_alone_and_shared() -> None:
    net, x, y, _ = golden()
    alone = measure(net, batches(x, y, 20, 28), "gradient")
    shared = measure(net, batches(x, y, 20, 28), "gradient", "fisher_diagonal")
    assert all(torch.equal(alone["gradient"][name], shared["gradient"][name]) for name in alone["gradient"])


def test_unused_weights_have_zero_statistics() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    model.add_module("spare", nn.Linear(2, 2))
    model.forward = lambda x: model[0](x)  # type: ignore[method-assign]
    x, y = torch.randn(4, 3), torch.randint(2, (4,))
    found = measure(model, batches(x, y, 4), "gradient", "fisher_diagonal", "hessian_gradient", "synaptic_flow")
    for name in found:
        assert not found[name]["spare.weight"].any()
        assert found[name]["0.weight"].any()


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_hessian_gradient_equals_the_explicit_hessian(temperature: float) -> None:
    model = mlp(3, 5, 4, bias=False)
    x, y = torch.randn(11, 3).double(), torch.randint(4, (11,))
    weights = list(prunable(model).items())
    flat = torch.cat([w.detach().flatten() for _, w in weights])

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split([w.numel() for _, w in weights])
        state = {name: part.view_as(w) for (name, w), part in zip(weights, parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, state, (x,)) / temperature, y)

    hessian = torch.autograd.functional.hessian(loss, flat)
    gradient = torch.autograd.functional.jacobian(loss, flat)
    found = measure(model, batches(x, y, 4, 7), "hessian_gradient", temperature=temperature)["hessian_gradient"]
    torch.testing.assert_close(torch.cat([f.flatten() for f in found.values()]), hessian @ gradient)


def test_synaptic_flow_of_a_linear_chain_is_the_product_of_matrices() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    found = measure(model, [(torch.randn(5, 3), torch.zeros(5).long())], "synaptic_flow")["synaptic_flow"]
    first, second = (model[i].weight.detach().double().abs() for i in (0, 2))
    torch.testing.assert_close(found["0.weight"], second.sum(0)[:, None].expand(4, 3))
    torch.testing.assert_close(found["2.weight"], first.sum(1).expand(2, 4))


class Uneven(nn.Module):
    """Convolutions padded by one more on one side, and one of images without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(2, 3, (2, 4), padding="same")
        self.single = nn.Conv2d(3, 3, 3)
        self.line = nn.Conv1d(3, 4, 2, padding="same", dilation=3)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.image(x))
        x = torch.relu(torch.stack([self.single(image) for image in x]))
        return self.head(torch.relu(self.line(x.flatten(2))).mean(2))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_synaptic_flow_of_unusual_convolutions_is_the_gradient() -> None:
    torch.manual_seed(0)
    net = Uneven().double()
    x = torch.randn(2, 2, 5, 6).double()
    flow = measure(net, [(x, torch.tensor([0, 1]))], "synaptic_flow")["synaptic_flow"]
    with torch.no_grad():
        for p in net.parameters():
            p.abs_()
    weights = prunable(net)
    expected = torch.autograd.grad(net(torch.ones_like(x[:1])).sum(), list(weights.values()))
    torch.testing.assert_close(flow, dict(zip(weights, expected, strict=True)))


def test_synaptic_flow_sees_no_data_and_no_calibration() -> None:
    net, x, y, _ = golden()
    plain = measure(net, batches(x, y, 48), "synaptic_flow")["synaptic_flow"]
    other = measure(net, batches(-x, y, 48), "synaptic_flow", "gradient", batchnorm="calibrated")["synaptic_flow"]
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_calibrated_statistics_are_the_mean_over_all_batches() -> None:
    norm = nn.BatchNorm1d(3)
    parts = [torch.randn(size, 3) * size + size for size in (4, 7, 5)]
    set_mode(norm, "calibrated", [(part, torch.zeros(len(part))) for part in parts])
    torch.testing.assert_close(norm.running_mean, torch.stack([part.mean(0) for part in parts]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([part.var(0) for part in parts]).mean(0))
    assert norm.momentum == 0.1
    assert not norm.training


def test_calibrated_batchnorm_uses_the_statistics_of_the_scoring_data() -> None:
    net, x, y, _ = golden()
    calibrated = measure(net, batches(x, y, 48), "gradient", batchnorm="calibrated")["gradient"]
    running = measure(net, batches(x, y, 48), "gradient")["gradient"]
    with preserved(net):
        net.train()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # running statistics = those of the only batch
        with torch.no_grad():
            net(x)
        net.eval()
        loss = F.cross_entropy(net(x), y)
        expected = torch.autograd.grad(loss, list(prunable(net).values()))
    for name, e in zip(calibrated, expected, strict=True):
        torch.testing.assert_close(calibrated[name], e, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(calibrated[name], running[name], rtol=1e-2, atol=1e-5)


def test_batch_mode_equals_training_mode_gradients_and_refuses_a_per_sample_fisher() -> None:
    net, x, y, _ = golden()
    found = measure(net, batches(x, y, 24, 24), "gradient", "fisher_diagonal", batchnorm="batch", fisher_batch_size=24)
    with preserved(net):
        net.train()
        weights = list(prunable(net).values())
        rows = [
            torch.autograd.grad(F.cross_entropy(net(a), b, reduction="sum"), weights) for a, b in batches(x, y, 24, 24)
        ]
    for name, one, two in zip(found["gradient"], *rows, strict=True):
        torch.testing.assert_close(found["gradient"][name], (one + two) / 48, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found["fisher_diagonal"][name], (one**2 + two**2) / 48, rtol=1e-4, atol=1e-6)
    with pytest.raises(RequestError, match="samples depend on each other"):
        measure(net, batches(x, y, 24, 24), "fisher_diagonal", batchnorm="batch")


def test_layers_without_running_statistics_make_samples_depend_on_each_other() -> None:
    """They normalise by the batch in eval mode too, so a per-sample Fisher of them would be something else."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)).double()
    x, y = torch.randn(8, 1, 5, 5).double(), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    with pytest.raises(RequestError, match="depend on each other"):
        measure(net, batches(x, y, 4, 4), "fisher_diagonal")
    found = measure(net, batches(x, y, 4, 4), "gradient", "fisher_diagonal", fisher_batch_size=4, chunk=2)
    weights = list(prunable(net).values())
    one, two = (
        torch.autograd.grad(F.cross_entropy(net(a), b, reduction="sum"), weights) for a, b in batches(x, y, 4, 4)
    )
    for name, a, b in zip(found["gradient"], one, two, strict=True):
        torch.testing.assert_close(found["gradient"][name], (a + b) / 8)
        torch.testing.assert_close(found["fisher_diagonal"][name], (a**2 + b**2) / 8)


@pytest.mark.parametrize("statistic", ["gradient", "hessian_gradient", "hessian_diagonal"])
def test_a_stated_chunk_bounds_what_is_propagated_at_once(statistic: str) -> None:
    net, x, y, _ = golden()
    whole = measure(net, batches(x, y, 48), statistic, probes=2)[statistic]
    sizes: list[int] = []
    handle = net.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    parts = measure(net, batches(x, y, 48), statistic, probes=2, chunk=7)[statistic]
    handle.remove()
    assert max(sizes) == 7
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=1e-6)


def test_unknown_statistic_names_the_valid_ones() -> None:
    with pytest.raises(RequestError, match="unknown statistic 'gradientt'; did you mean 'gradient'.*valid:.*weight"):
        statistics()["gradientt"]
