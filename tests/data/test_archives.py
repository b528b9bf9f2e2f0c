"""Tests of archives of published datasets: checksums, re-packed archives and hostile files."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_datasets import WRITE, each_dataset, images, md5, one_line, repack

from pbt_bench.data import load


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_hostile_pickle_is_never_opened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = WRITE[name](tmp_path / "data", monkeypatch)

    class Hostile:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return Path.touch, (tmp_path / "owned",)

    for path in made.inside:
        path.write_bytes(pickle.dumps(Hostile()))
    made.archive.unlink()
    assert "damaged or another file (MD5 " in one_line(name, tmp_path / "data")
    assert not (tmp_path / "owned").exists()


def test_an_archive_that_is_not_the_published_one_is_never_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = WRITE["cifar10"](tmp_path / "data", monkeypatch)
    for path in made.inside:
        path.unlink()
    with tarfile.open(made.archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../climbed"))
        link = tarfile.TarInfo("cifar-10-batches-py/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    assert "is missing" in one_line("cifar10", tmp_path / "data")
    assert not (tmp_path / "climbed").exists()
    assert list((tmp_path / "data" / "cifar-10-batches-py").iterdir()) == []


PACKED = pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion-mnist"])


@PACKED
def test_a_repacked_archive_is_read_by_the_checksums_of_its_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: list[str]
) -> None:
    made = WRITE[name](tmp_path / "data", monkeypatch)
    before = {path: path.read_bytes() for path in made.inside}
    repack(made)
    for _ in range(2):
        data = load(name, tmp_path / "data")
        assert images(data.train.pixels, data.train.targets) == images(*made.train)
        assert images(data.test.pixels, data.test.targets) == images(*made.test)
    assert {path: path.read_bytes() for path in made.inside} == before
    assert not fetched


@PACKED
def test_another_file_in_an_archive_is_named_with_both_checksums_and_never_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = WRITE[name](tmp_path / "data", monkeypatch)
    wrong = made.inside[-1]
    published = md5(wrong)
    wrong.write_bytes(wrong.read_bytes()[:-1] + b"?")
    other = md5(wrong)
    repack(made)
    text = one_line(name, tmp_path / "data")
    archive = made.archive if name.startswith("cifar") else wrong.with_name(f"{wrong.name}.gz")
    assert f"{archive} is damaged or another file ({wrong.name}: MD5 {other}, published {published})" in text
    assert "could not be downloaded" in text
    assert not wrong.exists()


@each_dataset
def test_another_file_is_named_with_both_checksums(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = WRITE[name](tmp_path / "data", monkeypatch)
    wrong = made.archive if name == "tiny-imagenet" else made.inside[0]
    published = md5(wrong)
    wrong.write_bytes(wrong.read_bytes()[:-1] + b"?")
    if wrong != made.archive:
        made.archive.unlink()
    text = one_line(name, tmp_path / "data")
    assert f"{wrong} is damaged or another file (MD5 {md5(wrong)}, published {published})" in text


@PACKED
def test_an_archive_that_cannot_be_unpacked_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = WRITE[name](tmp_path / "data", monkeypatch)
    for path in made.inside:
        path.unlink()
    whole = made.archive.read_bytes()
    made.archive.write_bytes(whole[: len(whole) // 2])
    assert f"{made.archive} cannot be unpacked (" in one_line(name, tmp_path / "data")


@PACKED
def test_what_is_far_larger_than_the_published_file_is_not_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = WRITE[name](tmp_path / "data", monkeypatch)
    repack(made)
    monkeypatch.setattr("pbt_bench.data.archives.BYTE_LIMIT", 10)
    one_line(name, tmp_path / "data")
    assert not any(path.exists() for path in made.inside)


DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of its package dataset-fashion-mnist


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_read_as_debian_packs_it(tmp_path: Path, fetched: list[str]) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in DEBIAN.glob("*.gz"):
        (raw / packed.name).symlink_to(packed)
    data = load("fashion-mnist", tmp_path)
    assert not fetched
    assert torch.bincount(data.train.targets).tolist() == [6000] * 10
    assert torch.bincount(data.test.targets).tolist() == [1000] * 10
    assert data.train.targets[:8].tolist() == [9, 0, 0, 3, 0, 2, 7, 2]
    np.testing.assert_allclose((*data.mean, *data.std), (0.2860, 0.3530), rtol=0, atol=1e-4)  # as commonly stated
