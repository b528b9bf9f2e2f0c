"""The published datasets, read from small archives in their true on-disk formats; none of them reaches the network."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image

from pbt_bench.data import datasets, load
from pbt_bench.data.run_data import prepare
from pbt_bench.errors import RequestError

RNG = np.random.default_rng(0)
Part = tuple[NDArray[np.uint8], list[int]]  # pixels [n, channels, h, w] and labels


class Published(NamedTuple):
    """A small dataset as its authors publish it, already in its folder."""

    train: Part
    test: Part
    archive: Path  # the file (or one of them) that a user puts there
    inside: list[Path]  # what is unpacked from it, or read beside it


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def part(each: int, classes: int, channels: int, side: int) -> Part:
    labels = RNG.permutation(np.repeat(np.arange(classes), each))
    return RNG.integers(0, 256, (len(labels), channels, side, side), dtype=np.uint8), labels.tolist()


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """CIFAR's files were pickled by Python 2 and an old numpy: byte strings, and integers for numpy's booleans."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def text(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)  # type: ignore[attr-defined]
        self.memoize(value)  # type: ignore[attr-defined]

    dispatch[str] = dispatch[bytes] = text
    dispatch[bool] = lambda self, value: self.save(int(value))


def pickled(value: object) -> bytes:
    out = io.BytesIO()
    Python2Pickler(out, protocol=2).dump(value)
    return out.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def cifar(folder: Path, patch: pytest.MonkeyPatch, kind: str) -> Published:
    reader = getattr(torchvision.datasets, kind)
    classes = 10 if kind == "CIFAR10" else 100
    train, test = part(5, classes, 3, 32), part(2, classes, 3, 32)
    base = folder / reader.base_folder
    base.mkdir(parents=True)

    def write(names: list[str], whole: Part) -> list[list[str]]:
        for name, rows, labels in zip(
            names, np.split(whole[0], len(names)), np.split(np.array(whole[1]), len(names)), strict=True
        ):
            batch = {"batch_label": name, "data": rows.reshape(len(rows), -1), "filenames": ["x.png"] * len(rows)}
            key = "labels" if classes == 10 else "fine_labels"
            batch |= {key: labels.tolist()} | ({} if classes == 10 else {"coarse_labels": [0] * len(rows)})
            (base / name).write_bytes(pickled(batch))
        return [[name, md5(base / name)] for name in names]

    names = [[file for file, _ in files] for files in (reader.train_list, reader.test_list)]
    patch.setattr(reader, "train_list", write(names[0], train))
    patch.setattr(reader, "test_list", write(names[1], test))
    meta = base / reader.meta["filename"]
    meta.write_bytes(pickled({reader.meta["key"]: [f"class {k}" for k in range(classes)], "num_vis": 3072}))
    patch.setattr(reader, "meta", reader.meta | {"md5": md5(meta)})
    archive = folder / reader.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(base, reader.base_folder)
    patch.setattr(reader, "tgz_md5", md5(archive))
    return Published(train, test, archive, sorted(base.iterdir()))


def mnist(folder: Path, patch: pytest.MonkeyPatch, kind: str) -> Published:
    reader = getattr(torchvision.datasets, kind)
    raw = folder / kind / "raw"
    raw.mkdir(parents=True)
    train, test = part(20, 10, 1, 28), part(4, 10, 1, 28)
    resources, inside = [], []
    for prefix, (pixels, labels) in (("train", train), ("t10k", test)):
        for name, array in (("images-idx3", pixels[:, 0]), ("labels-idx1", np.array(labels, np.uint8))):
            data = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
            path = raw / f"{prefix}-{name}-ubyte.gz"
            path.write_bytes(gzip.compress(data))
            path.with_suffix("").write_bytes(data)
            resources.append((path.name, md5(path)))
            inside.append(path.with_suffix(""))
    patch.setattr(reader, "resources", resources)
    datasets()
    patch.setitem(sys.modules["pbt_bench_datasets_mnist"].CHECKSUMS, kind, {path.name: md5(path) for path in inside})
    return Published(train, test, raw / resources[0][0], inside)


def svhn(folder: Path, patch: pytest.MonkeyPatch) -> Published:
    folder.mkdir(parents=True)
    parts, splits, paths = [], {}, []
    for name, each in (("train", 20), ("test", 4)):
        pixels, labels = part(each, 10, 3, 32)
        parts.append((pixels, labels))
        path = folder / f"{name}_32x32.mat"
        marks = np.array([[k or 10] for k in labels], np.uint8)  # the digit 0 has the label 10
        scipy.io.savemat(path, {"X": pixels.transpose(2, 3, 1, 0), "y": marks}, do_compression=True)
        splits[name] = [f"http://nowhere.invalid/{path.name}", path.name, md5(path)]
        paths.append(path)
    patch.setattr(torchvision.datasets.SVHN, "split_list", splits)
    return Published(parts[0], parts[1], paths[0], paths)


def tiny(folder: Path, patch: pytest.MonkeyPatch) -> Published:
    datasets()
    root = folder / "tiny-imagenet-200"
    wnids = [f"n{k:08d}" for k in RNG.permutation(99999999 // 200 * np.arange(200))]
    root.mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(wnids) + "\n")
    label = {wnid: k for k, wnid in enumerate(sorted(wnids))}

    def image(path: Path, grey: bool) -> NDArray[np.uint8]:
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (64, 64) if grey else (64, 64, 3)
        Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(path, "JPEG")
        with Image.open(path) as stored:
            return np.asarray(stored.convert("RGB")).transpose(2, 0, 1)

    train: list[Any] = []
    for wnid in wnids:
        names = [f"{wnid}_{k}.JPEG" for k in range(3)]
        train += [(image(root / "train" / wnid / "images" / name, k == 2), label[wnid]) for k, name in enumerate(names)]
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(f"{name}\t0\t0\t62\t62\n" for name in names))
    test = [(image(root / "val" / "images" / f"val_{k}.JPEG", False), label[wnid]) for k, wnid in enumerate(wnids)]
    lines = [f"val_{k}.JPEG\t{wnid}\t0\t0\t62\t62\n" for k, wnid in enumerate(wnids)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    image(root / "test" / "images" / "test_0.JPEG", False)
    archive = folder / "tiny-imagenet-200.zip"
    inside = sorted(path for path in root.rglob("*.*"))
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in inside:
            zipped.write(path, path.relative_to(folder))
    patch.setattr(sys.modules["pbt_bench_datasets_tiny_imagenet"], "MD5", md5(archive))
    split = [(np.stack([p for p, _ in items]), [k for _, k in items]) for items in (train, test)]
    return Published(split[0], split[1], archive, inside)


WRITE: dict[str, Callable[[Path, pytest.MonkeyPatch], Published]] = {
    "cifar10": lambda folder, patch: cifar(folder, patch, "CIFAR10"),
    "cifar100": lambda folder, patch: cifar(folder, patch, "CIFAR100"),
    "mnist": lambda folder, patch: mnist(folder, patch, "MNIST"),
    "fashion-mnist": lambda folder, patch: mnist(folder, patch, "FashionMNIST"),
    "svhn": svhn,
    "tiny-imagenet": tiny,
}
CLASSES = {"cifar10": 10, "cifar100": 100, "mnist": 10, "fashion-mnist": 10, "svhn": 10, "tiny-imagenet": 200}
each_dataset = pytest.mark.parametrize("name", WRITE)


@pytest.fixture(autouse=True)
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every attempt to reach the network, which fails at once."""
    attempts: list[str] = []

    def refuse(request: Any, *_: object, **__: object) -> None:
        attempts.append(request.full_url)
        raise URLError("no network\nhere")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return attempts


def images(pixels: Any, labels: Any) -> list[tuple[bytes, int]]:
    return sorted((np.asarray(p).tobytes(), int(k)) for p, k in zip(pixels, labels, strict=True))


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
    """FINDINGS 15: the validation split IS the test set."""
    made = WRITE[name](tmp_path / "data", monkeypatch)
    data = prepare(load(name, tmp_path / "data"), 0.4, 0, torch.device("cpu"))
    kept, held = images(data.train.pixels, data.train.targets), images(data.validation.pixels, data.validation.targets)
    assert sorted(kept + held) == images(*made.train)
    assert images(data.test.pixels, data.test.targets) == images(*made.test)
    assert not set(held) & set(images(*made.test))
    counts = torch.bincount(data.validation.targets, minlength=data.classes)
    assert int(counts.max() - counts.min()) <= 1


def one_line(name: str, folder: Path) -> str:
    with pytest.raises(RequestError) as caught:
        load(name, folder)
    text = str(caught.value)
    assert text.startswith(f"{name}: ")
    assert "\n" not in text
    assert str(folder) in text
    assert "put " in text
    assert "http" in text
    return text


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
        if name != "svhn":  # its files are not packed
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


def repack(made: Published) -> None:
    """Pack the same files differently: another checksum of the archive, other folders, another compression."""
    before = md5(made.archive)
    if made.archive.name.endswith(".tar.gz"):
        with tarfile.open(made.archive, "w:xz") as tar:
            for path in made.inside:
                tar.add(path, f"./elsewhere/{path.name}")
    else:
        for path in made.inside:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1, mtime=1))
    assert md5(made.archive) != before
    for path in made.inside:
        path.unlink()


PACKED = pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion-mnist"])


@PACKED
def test_an_archive_packed_anew_is_read_by_the_checksums_of_what_is_in_it(
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
