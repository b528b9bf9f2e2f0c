"""Tests of the published datasets, read from small files in their true formats, without network access."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from published_datasets import CLASSES, WRITE, each_dataset, images, one_line

from pbt_bench.data import load
from pbt_bench.data.run_data import prepare


@each_dataset
def test_every_image_and_label_is_read_and_normalised(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    made = WRITE[name](tmp_path / "data", monkeypatch)
    before = sorted(path.as_posix() for path in tmp_path.rglob("*"))
    data = load(name, tmp_path / "data")
    assert not fetched
    assert capfd.readouterr().out == ""
    assert sorted(path.as_posix() for path in tmp_path.rglob("*")) == before, "reading writes nothing"
    assert data.classes == CLASSES[name]
    for part_, (pixels, labels) in ((data.train, made.train), (data.test, made.test)):
        assert part_.pixels.dtype == torch.uint8
        assert part_.pixels.is_contiguous()
        assert part_.targets.dtype == torch.int64
        assert images(part_.pixels, part_.targets) == images(pixels, labels)
    scaled = made.train[0] / 255
    np.testing.assert_allclose(data.mean, scaled.mean((0, 2, 3)), rtol=0, atol=1e-9)
    np.testing.assert_allclose(data.std, scaled.std((0, 2, 3), ddof=1), rtol=0, atol=1e-9)


@each_dataset
def test_the_validation_images_are_stratified_and_never_of_the_test_set(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exclude finding F2: a validation set that is the test set."""
    made = WRITE[name](tmp_path / "data", monkeypatch)
    data = prepare(load(name, tmp_path / "data"), 0.4, 0, torch.device("cpu"))
    kept, held = images(data.train.pixels, data.train.targets), images(data.validation.pixels, data.validation.targets)
    assert sorted(kept + held) == images(*made.train)
    assert images(data.test.pixels, data.test.targets) == images(*made.test)
    assert not set(held) & set(images(*made.test))
    counts = torch.bincount(data.validation.targets, minlength=data.classes)
    assert int(counts.max() - counts.min()) <= 1


@each_dataset
def test_a_missing_dataset_is_one_line_after_a_download_was_tried(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: list[str]
) -> None:
    made = WRITE[name](tmp_path / "written", monkeypatch)
    text = one_line(name, tmp_path / "empty")
    assert fetched
    assert "is missing and could not be downloaded" in text
    assert "no network here" in text
    assert made.archive.name in text


@each_dataset
def test_an_archive_put_there_by_hand_is_enough(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: list[str]
) -> None:
    made = WRITE[name](tmp_path / "data", monkeypatch)
    for path in made.inside:
        if name != "svhn":  # the files of svhn are not packed
            path.unlink()
    data = load(name, tmp_path / "data")
    assert not fetched
    assert images(data.test.pixels, data.test.targets) == images(*made.test)


@each_dataset
def test_a_damaged_file_is_one_line_that_names_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = WRITE[name](tmp_path / "data", monkeypatch)
    damaged = made.archive if name == "tiny-imagenet" else made.inside[0]
    damaged.write_bytes(damaged.read_bytes()[:-7])
    if damaged != made.archive:
        made.archive.unlink()
    text = one_line(name, tmp_path / "data")
    assert "damaged" in text
    assert len(text) < 1000
    assert str(damaged.parent if "mnist" in name else damaged) in text


def test_what_old_versions_of_torchvision_saved_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = WRITE["mnist"](tmp_path / "data", monkeypatch)
    (tmp_path / "data" / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        few = torch.zeros(5, 28, 28, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64)
        torch.save(few, tmp_path / "data" / "MNIST" / "processed" / name)
    data = load("mnist", tmp_path / "data")
    assert images(data.train.pixels, data.train.targets) == images(*made.train)


def test_a_damaged_folder_is_mended_from_an_intact_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = WRITE["cifar10"](tmp_path / "data", monkeypatch)
    made.inside[2].write_bytes(b"")
    data = load("cifar10", tmp_path / "data")
    assert images(data.train.pixels, data.train.targets) == images(*made.train)


def test_an_unpacked_tiny_imagenet_is_read_and_must_be_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: list[str]
) -> None:
    made = WRITE["tiny-imagenet"](tmp_path / "data", monkeypatch)
    made.archive.unlink()
    data = load("tiny-imagenet", tmp_path / "data")
    assert images(data.train.pixels, data.train.targets) == images(*made.train)
    next(path for path in made.inside if path.name.endswith("_1.JPEG") and "train" in path.parts).unlink()
    assert "_1.JPEG is missing" in one_line("tiny-imagenet", tmp_path / "data")
    assert not fetched, "a download would not be looked at"


def test_tiny_images_of_another_size_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = WRITE["tiny-imagenet"](tmp_path / "data", monkeypatch)
    made.archive.unlink()
    Image.new("RGB", (64, 1)).save(tmp_path / "data" / "tiny-imagenet-200" / "val" / "images" / "val_7.JPEG")
    assert "val_7.JPEG: (64, 1) pixels" in one_line("tiny-imagenet", tmp_path / "data")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cifar10-python" not in one_line("cifar10", tmp_path / "file" / "data")
