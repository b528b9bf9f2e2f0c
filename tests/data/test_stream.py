"""Tests of datasets whose image files are read during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from savers import SaveAll
from torch import Tensor, nn

from pbt_bench.data import load
from pbt_bench.data.image_tensors import Augmentation
from pbt_bench.data.images import from_folders
from pbt_bench.data.run_data import Data, prepare
from pbt_bench.data.stream import Streamed
from pbt_bench.errors import RequestError
from pbt_bench.pruning.diagnosis import all_kept
from pbt_bench.running.execute import Executor
from pbt_bench.seeds import stream
from pbt_bench.spec import Recipe, RunSpec, Scoring
from pbt_bench.training.loop import train

SIDE = 28
WNIDS = ("n01440764", "n01443537", "n02102040")
RECIPE = Recipe(epochs=2, batch_size=5, augment="crop-flip", learning_rate=0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small ImageNet: JPEGs of several sizes in a folder per class, one grey, one with four channels."""
    root = tmp_path_factory.mktemp("data")
    draws = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for label, wnid in enumerate(WNIDS):
            (root / "imagenet" / split / wnid).mkdir(parents=True)
            for number in range(count):
                height, width = draws.integers(30, 60, 2)
                pixels = (draws.normal(60 + 60 * label, 20, (height, width, 3))).clip(0, 255).astype(np.uint8)
                image = Image.fromarray(pixels).convert({0: "L", 1: "CMYK"}.get(number, "RGB"))
                image.save(root / "imagenet" / split / wnid / f"{wnid}_{number}.JPEG", quality=95)
    return root


@pytest.fixture(scope="module")
def data(folder: Path) -> Data:
    root = folder / "imagenet"
    made = from_folders(root / "train", root / "val", SIDE, (0.5,) * 3, (0.25,) * 3)
    return prepare(made, 0.25, 0, torch.device("cpu"))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 3))  # fmt: skip


def augmentation(how: str, epoch: int = 1) -> Augmentation:
    return Augmentation(how, 4, stream(0, "augmentation", epoch))


def seen(images: Any, order: Tensor, size: int, how: str, epoch: int = 1) -> Tensor:
    parts = [slice(start, start + size) for start in range(0, len(order), size)]
    return torch.cat([batch.pixels for batch in images.batches(order, parts, augmentation(how, epoch))])


def test_imagenet_is_read_from_its_folders(folder: Path) -> None:
    made = load("imagenet", folder)
    assert (len(made.train), len(made.test), made.classes, made.channels, made.size) == (36, 12, 3, 3, 224)
    assert made.test.targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4  # classes in order of their WordNet ids
    assert made.test.example().shape == (1, 3, 224, 224)
    assert made.mean == (0.485, 0.456, 0.406)


def test_the_parts_are_stratified_and_read_as_the_library_does(data: Data) -> None:
    from torchvision.transforms import v2

    assert torch.bincount(data.validation.targets).tolist() == [3, 3, 3]
    assert isinstance(data.train, Streamed)
    assert isinstance(data.validation, Streamed)
    assert not set(data.train.paths) & set(data.validation.paths)
    batches = list(data.test.in_order(5))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    assert torch.equal(torch.cat([batch.targets for batch in batches]), data.test.targets)
    assert isinstance(data.test, Streamed)
    change = v2.Compose([v2.PILToTensor(), v2.Resize(32), v2.CenterCrop(SIDE)])
    wanted = torch.stack([change(Image.open(path.decode()).convert("RGB")) for path in data.test.paths])
    assert torch.equal(torch.cat([batch.pixels for batch in batches]), wanted)


def test_an_image_is_changed_by_its_own_draw_whatever_the_loaders(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr("pbt_bench.data.stream._loaders", lambda batches: 0)
    state = torch.get_rng_state()
    alone = seen(data.train, order, 4, "crop-flip")
    assert torch.equal(state, torch.get_rng_state())
    monkeypatch.setattr("pbt_bench.data.stream._loaders", lambda batches: 2)
    assert torch.equal(seen(data.train, order, 7, "crop-flip"), alone)
    assert torch.equal(seen(data.train, order.flip(0), 7, "crop-flip").flip(0), alone)
    assert not torch.equal(seen(data.train, order, 4, "crop-flip", epoch=2), alone)
    plain, flipped = seen(data.train, order, 9, "none"), seen(data.train, order, 9, "flip")
    kinds = {(torch.equal(a, b), torch.equal(a.flip(2), b)) for a, b in zip(plain, flipped, strict=True)}
    assert kinds == {(True, False), (False, True)}  # every image is either unchanged or mirrored
    assert {image.shape for image in alone} == {(3, SIDE, SIDE)}


def test_interrupted_in_an_epoch_it_ends_with_the_same_bits(data: Data) -> None:
    model, saver = network(), SaveAll()
    whole = train(model, all_kept(model, True), data, RECIPE, 0, saver=saver)
    assert len(saver.states) > 8
    for state in (saver.states[1], saver.states[-2]):
        again = network()
        resumed = train(again, all_kept(again, True), data, RECIPE, 0, state=state)
        assert [epoch.train_loss for epoch in resumed.curve] == [epoch.train_loss for epoch in whole.curve]
        for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True):
            assert torch.equal(a, b)


def test_a_run_on_streamed_images_is_scored_pruned_and_trained(folder: Path) -> None:
    spec = RunSpec(
        dataset="imagenet", model="resnet18-imagenet", method="snip", sparsity=0.9, seed=0,
        recipe=Recipe(epochs=1, batch_size=9, augment="crop-flip"),
        scoring=Scoring(samples_per_class=2, batch_size=4, augment=True),
    )  # fmt: skip
    record = Executor(folder, torch.device("cpu")).execute(spec).record
    assert record.status == "done", record.error
    assert record.pruning
    assert record.pruning.realised_sparsity == pytest.approx(0.9, abs=1e-6)


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda root: None, r"imagenet: \S+imagenet/train is missing; put the archives of https://image-net.org into"),
        (lambda root: (root / "train").mkdir(parents=True), "holds no folder per class"),
        (lambda root: (root / "train/n1").mkdir(parents=True), r"imagenet/val is missing"),
        (lambda root: [(root / part).mkdir(parents=True) for part in ("train/n1", "val/n2")], "'n1' is in only one"),
        (lambda root: [(root / part).mkdir(parents=True) for part in ("train/n1", "val/n1")], "holds no image"),
    ],
)
def test_what_is_missing_is_named_before_a_run_starts(tmp_path: Path, break_it: Any, told: str) -> None:
    break_it(tmp_path / "imagenet")
    with pytest.raises(RequestError, match=told):
        load("imagenet", tmp_path)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / "imagenet" / part / "n1").mkdir(parents=True)
        (tmp_path / "imagenet" / part / "n1" / "broken.JPEG").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(RequestError, match=r"train/n1/broken.JPEG cannot be read"):
        load("imagenet", tmp_path).train.example()
