"""Tests that masks do not depend on the precision that a program allows for float32 products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pbt_bench
from pbt_bench.errors import RequestError

BACKENDS: Any = torch.backends
OPERATIONS = (
    [getattr(getattr(BACKENDS, b), o) for b in ("cudnn", "mkldnn") for o in ("conv", "rnn")]
    + [BACKENDS.cuda.matmul, BACKENDS.mkldnn.matmul]
    if hasattr(BACKENDS.cudnn, "conv")
    else []
)
NEW = pytest.mark.skipif(not OPERATIONS, reason="this PyTorch has no settings of single operations (CUDA)")


def set_all(precision: str) -> None:
    for place in (BACKENDS, BACKENDS.cudnn, BACKENDS.mkldnn, *OPERATIONS):
        place.fp32_precision = precision


def set_one(place: Any, precision: str) -> None:
    place.fp32_precision = precision


SETTINGS: dict[str, Callable[[], object]] = {
    "as PyTorch starts": lambda: None,
    "products in TF32": lambda: torch.set_float32_matmul_precision("high"),
    "products in bfloat16": lambda: torch.set_float32_matmul_precision("medium"),
    "convolutions in float32": lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
}
OF_OPERATIONS: dict[str, Callable[[], object]] = {
    "convolutions alone": lambda: set_one(BACKENDS.cudnn.conv, "ieee"),
    "products alone": lambda: set_one(BACKENDS.cuda.matmul, "tf32"),
    "CPU products in bfloat16": lambda: set_one(BACKENDS.mkldnn.matmul, "bf16"),
    "everything in TF32": lambda: set_all("tf32"),
    "everything in float32": lambda: set_all("ieee"),
}


def settings() -> list[object]:
    """Return all settings; one that PyTorch refuses to read as its error."""

    def read(get: Callable[[], object]) -> object:
        try:
            return get()
        except RuntimeError:
            return "refused"

    return [
        read(torch.get_float32_matmul_precision),
        read(lambda: BACKENDS.cudnn.allow_tf32),
        read(lambda: BACKENDS.cuda.matmul.allow_tf32),
        *(operation.fp32_precision for operation in OPERATIONS),
    ]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = settings()
    places = [BACKENDS, BACKENDS.cudnn, BACKENDS.mkldnn] if OPERATIONS else []
    precisions = [place.fp32_precision for place in places]
    yield
    for place, precision in zip(places, precisions, strict=True):
        place.fp32_precision = precision
    torch.set_float32_matmul_precision(str(before[0]))
    BACKENDS.cudnn.allow_tf32 = before[1]
    for operation, precision in zip(OPERATIONS, before[3:], strict=True):
        operation.fp32_precision = precision


class Watched(nn.Sequential):
    """A network that notes the settings at each of its forward passes."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 64), nn.ReLU(), nn.Linear(64, 10)
        )
        self.seen: list[list[object]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(settings())
        result: Tensor = super().forward(x)
        return result


def scored(method: str) -> tuple[dict[str, Tensor], list[list[object]]]:
    torch.manual_seed(0)
    model = Watched().eval()
    batch = torch.randn(16, 3, 8, 8), torch.arange(16) % 10
    model.seen.clear()
    return pbt_bench.score(model, [batch], method=method), model.seen


@pytest.mark.parametrize("method", ["snip", "synflow"])
@pytest.mark.parametrize("setting", [*SETTINGS, *(pytest.param(name, marks=NEW) for name in OF_OPERATIONS)])
def test_scores_are_computed_in_float32(setting: str, method: str) -> None:
    expected, _ = scored(method)
    (SETTINGS | OF_OPERATIONS)[setting]()
    before = settings()
    scores, seen = scored(method)
    assert settings() == before, "the settings are not restored"
    assert seen
    for products, *allowed in seen:
        assert products in ("highest", "refused")
        assert set(allowed) <= {False, "refused", "ieee"}
        assert allowed[2:] == ["ieee"] * len(OPERATIONS)
    for name, score in expected.items():
        assert torch.equal(scores[name], score), name


def test_settings_are_restored_after_an_error() -> None:
    torch.set_float32_matmul_precision("medium")
    before = settings()
    with pytest.raises(RequestError), torch.inference_mode():
        scored("snip")
    with pytest.raises(RequestError, match="does not take inputs"):
        pbt_bench.score(Watched(), [(torch.randn(2, 3, 9, 9), torch.arange(2))], method="snip")
    assert settings() == before
