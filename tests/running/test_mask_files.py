"""Tests of mask files and of the masks of a run. Damaged and hostile files are errors of one line."""

from __future__ import annotations

import json
import os
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import pbt_bench
from pbt_bench.cli import main
from pbt_bench.errors import RequestError
from pbt_bench.running.merge import pack
from pbt_bench.running.record import Layer, Pruning, RunRecord, digest
from pbt_bench.running.store import Store
from pbt_bench.spec import RunSpec

SPEC = RunSpec(dataset="digits", model="vgg8", method="snip", sparsity=0.4, seed=0)


def masks() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    both = torch.rand(30, generator=generator) < 0.5  # in one storage, as the masks of a ranking
    return {"b.weight": both[:24].view(2, 3, 4).transpose(0, 1), "ä/0.weight": both[24:].view(6), "empty": both[:0]}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_masks_come_back_and_equal_masks_give_equal_bytes(tmp_path: Path) -> None:
    about: dict[str, Any] = {"method": "fts (alpha 0.3)", "sparsity": 0.98, "source": 'a "quoted" line\nand ü'}
    files = [tmp_path / name for name in "abcdef"]
    for file in files:
        pbt_bench.save_masks(file, masks(), **about)
    assert equal(pbt_bench.load_masks(files[0]), masks())
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], framework="pt") as opened:  # by any program that reads safetensors
        assert opened.metadata() == {name: str(value) for name, value in about.items()}
        assert opened.get_tensor("b.weight").dtype == torch.bool
    assert len(os.listdir(tmp_path)) == len(files)
    for few in (masks(), {}):
        pbt_bench.save_masks(files[0], few)
        assert equal(pbt_bench.load_masks(files[0]), few)


def test_wrong_masks_and_files_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^mask of w: torch.float32, expected torch.bool$"):
        pbt_bench.save_masks(tmp_path / "a", {"w": torch.ones(2)})
    with pytest.raises(RequestError, match=r"^masks are list, not a mapping"):
        pbt_bench.save_masks(tmp_path / "a", [])  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"a/b/c: masks cannot be written: No such file or directory$"):
        pbt_bench.save_masks(tmp_path / "a" / "b" / "c", masks())
    assert not list(tmp_path.iterdir())


def with_header(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


HOSTILE = {
    "empty": b"",
    "text": b"not a file of masks",
    "huge header": (2**63).to_bytes(8, "little") + b"{}",
    "no object": with_header([1, 2]),
    "beyond the end": with_header({"w": {"dtype": "BOOL", "shape": [9], "data_offsets": [0, 9]}}, b"\0"),
    "overlapping": with_header(
        {name: {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]} for name in "ab"}, b"\0\1"
    ),
    "overflow": with_header({"w": {"dtype": "BOOL", "shape": [2**40, 2**40], "data_offsets": [0, 1]}}, b"\0"),
    "negative": with_header({"w": {"dtype": "BOOL", "shape": [-1], "data_offsets": [0, 1]}}, b"\0"),
    "neither true nor false": with_header({"w": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}, b"\1\2"),
    "unknown type": with_header({"w": {"dtype": "QUUX", "shape": [2], "data_offsets": [0, 2]}}, b"\1\2"),
    "small floats": with_header({"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, b"\1\2"),
    "bfloat16": with_header({"w\x1b[2J": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, b"\1\2"),
    "pickle": b"\x80\x04cposix\nsystem\n",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_one_line(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "masks.safetensors"
    file.write_bytes(HOSTILE[kind])
    with pytest.raises(RequestError, match=rf"^{file}: ") as error:
        pbt_bench.load_masks(file)
    assert str(error.value).isprintable()


def test_any_damage_is_one_line_or_other_masks(tmp_path: Path) -> None:
    file, draw = tmp_path / "masks.safetensors", random.Random(0)
    pbt_bench.save_masks(file, masks(), method="snip")
    whole = file.read_bytes()
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(whole))] = draw.randrange(256)
        file.write_bytes(damaged[: draw.choice([len(whole), draw.randrange(len(whole))])])
        found: dict[str, Tensor] = {}
        with suppress(RequestError):
            found = pbt_bench.load_masks(file)
        assert all(mask.dtype == torch.bool and int(mask.view(torch.uint8).sum()) <= 30 for mask in found.values())


def test_other_files_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    save_file({"w": torch.ones(2)}, tmp_path / "weights")
    for name, message in (
        ("absent", "not a file"),
        ("pipe", "not a file"),
        (".", "a results folder: give the id of a run too"),
        ("weights", "w is float32, not a mask"),
    ):
        with pytest.raises(RequestError, match=rf"^{tmp_path / name}: {message}$"):
            pbt_bench.load_masks(tmp_path / name)


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, str, dict[str, Tensor]]:
    """Return a results folder, the id of its run, and the masks of this run."""
    arrays = {"0.weight": np.arange(6).reshape(2, 3) % 2 == 0, "2.weight": np.arange(4).reshape(2, 2) > 0}
    layers = tuple(
        Layer(name=name, shape=mask.shape, prunable=mask.size, kept=int(mask.sum()), zero_scores=0)
        for name, mask in arrays.items()
    )
    pruning = Pruning(
        prunable=10, kept=6, sparsity=0.4, realised_sparsity=0.4, effective_sparsity=0.4, zero_score_share=0.0,
        collapsed_layers=0, flops_dense=1, flops_sparse=1, scoring_seconds=0.0, layers=layers, rounds=1,
        mask_digest=digest(arrays),
    )  # fmt: skip
    store = Store(tmp_path / "results" / "study")
    store.folder.mkdir(parents=True)
    store.prepare()
    store.write(RunRecord.new(SPEC, "done", pruning=pruning), arrays)
    return store.folder, SPEC.run_id, {name: torch.from_numpy(mask) for name, mask in arrays.items()}


def test_the_masks_of_a_run(study: tuple[Path, str, dict[str, Tensor]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, run_id, expected = study
    assert equal(pbt_bench.load_masks(folder, run_id), expected)
    assert equal(pbt_bench.load_masks(str(folder), run_id[:5]), expected)
    file = folder / "out.safetensors"
    assert main(["masks", run_id[:6], "--results", str(folder.parent), "--out", str(file)]) == 0
    assert capsys.readouterr().out.startswith(f"{file}: 2 masks, 6 of 10 weights kept (digits ")
    assert equal(pbt_bench.load_masks(file), expected)
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata()["source"].startswith(f"run {run_id} of study: digits ")
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    pbt_bench.apply(model, pbt_bench.load_masks(file))
    pack(folder, folder.parent / "packed.pack")
    assert equal(pbt_bench.load_masks(folder.parent / "packed.pack", run_id), expected)


def test_a_run_without_masks_is_one_line(
    study: tuple[Path, str, dict[str, Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run_id, _ = study
    with pytest.raises(RequestError, match=rf"^run 'zz': 0 records in {folder}/runs begin with it \(none\)$"):
        pbt_bench.load_masks(folder, "zz")
    with pytest.raises(RequestError, match="is not a run id"):
        pbt_bench.load_masks(folder, "../x")
    file = folder / "masks" / f"{run_id}.bits"
    file.write_bytes(b"x")
    line = f"pbt-bench: error: run {run_id} of {folder}: its masks are missing or damaged\n"
    assert main(["masks", run_id, "--results", str(folder.parent), "--out", str(folder / "out")]) == 2
    assert capsys.readouterr().err == line
    failed = RunRecord.new(RunSpec.from_json(SPEC.to_json().replace(b"snip", b"fts")), "failed", error="x")
    Store(folder).write(failed)
    with pytest.raises(RequestError, match=r"its masks do not exist: it failed$"):
        pbt_bench.load_masks(folder, failed.run_id)
