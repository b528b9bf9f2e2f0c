"""Small files in the formats of the published datasets, written by the tests."""

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

import numpy as np
import pytest
import scipy.io
import torchvision
from numpy.typing import NDArray
from PIL import Image

from pbt_bench.data import datasets, load
from pbt_bench.errors import RequestError

RNG = np.random.default_rng(0)
Part = tuple[NDArray[np.uint8], list[int]]  # pixels [n, channels, h, w] and labels


class Published(NamedTuple):
    """A small dataset in the format of its authors, already in its folder."""

    train: Part
    test: Part
    archive: Path  # the file, or one of the files, that a user downloads
    inside: list[Path]  # the files in the archive, or other files of the dataset


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def part(each: int, classes: int, channels: int, side: int) -> Part:
    labels = RNG.permutation(np.repeat(np.arange(classes), each))
    return RNG.integers(0, 256, (len(labels), channels, side, side), dtype=np.uint8), labels.tolist()


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Pickler that writes like Python 2 with an old numpy: byte strings, and integers for booleans of numpy."""

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


def images(pixels: Any, labels: Any) -> list[tuple[bytes, int]]:
    return sorted((np.asarray(p).tobytes(), int(k)) for p, k in zip(pixels, labels, strict=True))


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


def repack(made: Published) -> None:
    """Pack the same files with other folders and another compression, so that the archive has another checksum."""
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
