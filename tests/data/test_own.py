"""Tests of datasets of the user: registration, normalisation and errors."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pbt_bench.data import _SOURCES, Source, datasets, load
from pbt_bench.data.images import _mean_and_std, _uint8, from_arrays
from pbt_bench.data.run_data import prepare
from pbt_bench.errors import RequestError

HEAD = """
import numpy as np
import torch
from PIL import Image
from pbt_bench.data import dataset
from pbt_bench.data.images import from_arrays

rng = np.random.default_rng(0)
x, y = rng.integers(0, 256, (12, 3, 5, 5), dtype=np.uint8), np.arange(12) % 3

class Pairs:
    def __init__(self, items): self.items = items
    def __len__(self): return len(self.items)
    def __getitem__(self, index): return self.items[index]

@dataset(cite="none", name="own-data")
def anything(folder):
    "Mine."
"""
RETURNS = {
    "a Dataset": "from_arrays(x, y, x[:6], y[:6])",
    "arrays": "x, y, x[:6], y[:6]",
    "tensors": "tuple(map(torch.as_tensor, (x, y, x[:6], y[:6])))",
    "PIL": "[Pairs([(Image.fromarray(p.transpose(1, 2, 0)), k) for p, k in zip(x, y)][:n]) for n in (12, 6)]",
    "uint8": "[Pairs([(torch.tensor(p), torch.tensor(k)) for p, k in zip(x, y)][:n]) for n in (12, 6)]",
    "ToTensor": "[[(torch.tensor(p).float() / 255, int(k)) for p, k in zip(x, y)][:n] for n in (12, 6)]",
}
REFUSED = {
    "None": ("None", "returned NoneType"),
    "a string": ("'xy'", "returned str"),
    "one set": ("(x,)", "returned tuple"),
    "floats": ("x / 255, y, x, y", "training images are torch.float64"),
    "channels last": ("x.transpose(0, 2, 3, 1), y, x, y", "not uint8"),
    "fewer labels": ("x, y, x, y[:5]", "test labels are"),
    "float labels": ("x, y / 2, x, y", "training labels are torch.float64"),
    "a label too many": ("x, y, x, y + 1", "test labels are 1 to 3, but there are 3 classes"),
    "labels from 1": ("x, y + 1, x, y + 1", "training labels are class indices from 0, but none is 0 (up to 3)"),
    "a label left out": ("x, y * 2, x, y * 2", "training labels are class indices from 0, but none is 1 (up to 4)"),
    "a negative label": ("x, y - 1, x, y", "training labels are -1 to 1"),
    "other images": ("x, y, x[:, :1], y", "[3, 5, 5] in training and [1, 5, 5] in test"),
    "empty": ("[], []", "training images are"),
    "no pairs": ("[7], [7]", "training item 0 is not an (image, integer label)"),
    "soft labels": ("[[(torch.tensor(x[0]), 0.5)]] * 2", "training item 0 is not an (image, integer label)"),
    "normalised": ("[[(torch.tensor(x[0]) - 9.1, 0)]] * 2", "leave Normalize out"),
    "sizes": ("[[(torch.tensor(x[0]), 0), (torch.tensor(x[0, :, :4, :4]), 0)]] * 2", "item 1 is [3, 4, 4], the first"),
    "modes": ("[[(Image.new('RGBA', (5, 5)), 0)]] * 2", "mode RGBA"),
    "numpy images": ("[[(x[0], 0)]] * 2", "training item 0 is a ndarray"),
    "an exception": ("1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder in PBT_BENCH_DATASETS, and clear the registry before and after."""
    monkeypatch.setenv("PBT_BENCH_DATASETS", str(tmp_path))
    for _ in forget():
        yield tmp_path


def forget() -> Iterator[None]:
    for turn in range(2):
        _SOURCES.keep_from(Path())
        datasets.cache_clear()
        if turn == 0:
            yield


@pytest.mark.parametrize("given", RETURNS.values(), ids=RETURNS)
def test_an_own_dataset_is_one_file_in_a_folder(given: str, own: Path) -> None:
    (own / "mine.py").write_text(f"{HEAD}    return {given}\n")
    data = load("own-data", own)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (12, 3, 5, 5), dtype=np.uint8))
    assert torch.equal(data.train.pixels, pixels)
    assert torch.equal(data.test.pixels, pixels[:6])
    assert data.train.targets.tolist() == [0, 1, 2] * 4
    assert (data.classes, data.channels, data.size) == (3, 3, 5)
    assert datasets()["own-data"].summary == "Mine."


@pytest.mark.parametrize(("given", "reason"), REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused_in_one_line_that_names_the_file(given: str, reason: str, own: Path) -> None:
    (own / "mine.py").write_text(f"{HEAD}    return {given}\n")
    with pytest.raises(RequestError) as caught:
        load("own-data", own)
    assert reason in str(caught.value)
    assert str(caught.value).startswith("own-data: ")
    assert str(own / "mine.py") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_random_transforms_are_refused(own: Path) -> None:
    """Exclude finding F2: augmented validation images."""
    body = "    class Noisy(Pairs):\n        def __getitem__(self, i): return torch.randint(256, (1, 4, 4)).byte(), 0\n"
    (own / "mine.py").write_text(f"{HEAD}{body}    return Noisy([0] * 3), Noisy([0] * 3)\n")
    with pytest.raises(RequestError, match="leave augmentation to the recipe"):
        load("own-data", own)


STUDY = """
name = "study"
[grid]
dataset = ["digits", "own-data"]
model = ["resnet8"]
method = ["random"]
sparsity = [0.5]
seed = [0]
[recipe]
epochs = 0
"""


PARTS = "splits 12 training images into %d and %d: either part needs one of each of the 3 classes"


@pytest.mark.parametrize(
    ("labels", "fraction", "says"),
    [
        (
            "[0, 1, 2, 0] * 2 + [0, 1, 1, 3]",
            0.5,
            "needs two training images of every class or more, and class 3 has one",
        ),
        ("[0, 1, 2] * 4", 0.1, PARTS % (10, 2)),
        ("[0, 1, 2] * 4", 0.8, PARTS % (2, 10)),
    ],
)
def test_a_validation_part_that_cannot_be_is_one_line_before_any_run(
    labels: str, fraction: float, says: str, own: Path
) -> None:
    (own / "mine.py").write_text(f"{HEAD}    return x, {labels}, x, y\n")
    (own / "study.toml").write_text(STUDY + f"validation_fraction = {fraction}\n")
    command = [sys.executable, "-m", "pbt_bench.cli", "run", "study.toml", "--workers", "1"]
    done = subprocess.run(command, cwd=own, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == f"pbt-bench: error: own-data: recipe.validation_fraction = {fraction} {says}"
    assert not list(own.rglob("runs/*.json"))
    data = load("own-data", own)
    with pytest.raises(RequestError, match=re.escape(says)):
        prepare(data, fraction, 0, torch.device("cpu"))
    assert len(prepare(data, 0.0, 0, torch.device("cpu")).train) == 12


@pytest.mark.parametrize("fraction", [0.24, 0.25, 0.5, 0.75])
def test_the_smallest_validation_parts_are_taken(fraction: float) -> None:
    pixels = torch.arange(12, dtype=torch.uint8)[:, None, None, None].expand(12, 1, 2, 2)
    data = prepare(from_arrays(pixels, [0, 1, 2] * 4, pixels, [0, 1, 2] * 4), fraction, 0, torch.device("cpu"))
    assert data.train.targets.unique().tolist() == data.validation.targets.unique().tolist() == [0, 1, 2]


def test_grey_and_palette_images_have_one_and_three_channels() -> None:
    from PIL import Image

    for mode, channels in (("1", 1), ("L", 1), ("P", 3), ("RGB", 3)):
        items = [(Image.new(mode, (4, 4), k), k) for k in range(2)]
        data = Source("x", lambda _, items=items: (items, items), "", "", "").load(Path())  # type: ignore[misc]
        assert data.channels == channels


def test_counted_statistics_are_those_of_float64() -> None:
    pixels = torch.randint(256, (5000, 3, 6, 6), generator=torch.Generator().manual_seed(0)).byte()
    pixels[:, 1] //= 7
    pixels[:, 2] = 200
    pixels[0, 2] = 201
    scaled = pixels.numpy() / 255
    mean, std = _mean_and_std(pixels)
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)), rtol=0, atol=1e-9)
    np.testing.assert_allclose(std, scaled.std((0, 2, 3), ddof=1), rtol=0, atol=1e-9)


def test_digest_of_a_dataset_does_not_depend_on_the_number_of_threads() -> None:
    pixels = torch.randint(256, (1400, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    labels, digests = torch.arange(1400) % 10, set()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            digests.add(from_arrays(pixels, labels, pixels, labels).digest)
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 1


def test_more_pixels_than_float32_can_count_are_counted() -> None:
    pixels = torch.zeros(17_001, 1, 33, 31, dtype=torch.uint8)  # an odd number above 2^24
    pixels[0, 0, 0, 0] = 1
    assert _mean_and_std(pixels)[0] == (1 / (255 * pixels.numel()),)


@pytest.mark.parametrize("value", [-1 / 255, 0.5 / 255, 256 / 255, 0.2 + 2e-4, torch.nan])
def test_one_value_that_no_pixel_has_is_refused(value: float) -> None:
    image = torch.arange(12).view(1, 3, 4) / 255
    assert _uint8(image, "x").tolist() == torch.arange(12).view(1, 3, 4).tolist()
    assert _uint8(image[0], "x").shape == (1, 3, 4)
    image[0, 1, 2] = value
    with pytest.raises(RequestError, match="x is torch.float32, not uint8 or ToTensor's k/255"):
        _uint8(image, "x")


def test_the_statistics_of_digits_are_exactly_rounded() -> None:
    data = load("digits", Path("nowhere"))
    assert (*data.mean, *data.std) == (0.2872703229398664, 0.3538896724842535)


def test_the_statistics_of_a_large_set_need_little_memory() -> None:
    """Check the memory: a float64 copy of these 150 MB would be 1.2 GB."""
    code = """
import resource, torch
from pbt_bench.data.images import from_arrays
torch.set_num_threads(1)
pixels, labels = torch.full((50_000, 3, 32, 32), 7, dtype=torch.uint8), torch.arange(50_000) % 10
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = from_arrays(pixels, labels, pixels[:10], labels[:10])
assert data.mean == (7 / 255,) * 3 and data.std == (0.0,) * 3, data
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100


def test_the_number_of_classes_can_be_stated() -> None:
    pixels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    assert from_arrays(pixels, [0, 1, 0, 1], pixels, [0, 0, 0, 1], 5).classes == 5
    with pytest.raises(RequestError, match="there are 1 classes"):
        from_arrays(pixels, [0, 1, 0, 1], pixels, [0, 0, 0, 1], 1)


def test_datasets_are_listed_without_torch() -> None:
    code = "import sys; from pbt_bench.data import datasets; print(*datasets()); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) >= {
        "cifar10", "cifar100", "digits", "fashion-mnist", "mnist", "svhn", "tiny-imagenet",
    }  # fmt: skip
