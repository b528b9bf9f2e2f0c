"""Tests of datasets, splits, scoring samples and augmentation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pbt_bench.data import datasets
from pbt_bench.data.image_tensors import Augmentation, Images, augment
from pbt_bench.data.images import Dataset
from pbt_bench.data.run_data import Data, check_split, prepare, scoring_images, with_label_noise
from pbt_bench.data.stream import Streamed
from pbt_bench.errors import RequestError


def load(split_seed: int = 0, fraction: float = 0.15) -> Data:
    return prepare(datasets()["digits"].load(Path("nowhere")), fraction, split_seed, torch.device("cpu"))


def as_set(images: Images | Streamed) -> set[bytes]:
    return {p.numpy().tobytes() + bytes([int(t)]) for p, t in zip(images.pixels, images.targets, strict=True)}


def test_digits_are_all_there_and_the_parts_are_disjoint_and_stratified() -> None:
    data = load()
    assert (len(data.train), len(data.validation), len(data.test)) == (1144, 203, 450)
    assert not as_set(data.test) & (as_set(data.train) | as_set(data.validation))
    assert not as_set(data.train) & as_set(data.validation)
    for part in (data.train, data.validation, data.test):
        shares = torch.bincount(part.targets, minlength=10) / len(part)
        assert bool(((shares - 0.1).abs() < 0.015).all())


def test_the_split_has_its_own_seed_and_never_touches_the_test_set() -> None:
    a, b = load(0), load(1)
    assert torch.equal(a.test.pixels, b.test.pixels)
    assert as_set(a.validation) != as_set(b.validation)
    assert as_set(a.train) | as_set(a.validation) == as_set(b.train) | as_set(b.validation)
    assert len(load(fraction=0.0).validation) == 0


@pytest.mark.parametrize("count", [10, 101, 1143, 1144])
def test_a_part_of_the_training_images_is_stratified_and_leaves_the_other_sets_alone(count: int) -> None:
    digits = datasets()["digits"].load(Path("nowhere"))
    part, again, other = (prepare(digits, 0.15, seed, torch.device("cpu"), count) for seed in (0, 0, 1))
    whole = load()
    assert len(part.train) == count
    assert as_set(part.train) <= as_set(whole.train)
    assert as_set(part.validation) == as_set(whole.validation)
    shares = torch.bincount(part.train.targets, minlength=10) / torch.bincount(whole.train.targets, minlength=10)
    assert float((shares - count / 1144).abs().max()) < 1 / 100  # of about 114 images in a class
    assert torch.equal(part.train.pixels, again.train.pixels)
    assert as_set(part.train) != as_set(other.train)


@pytest.mark.parametrize("count", [9, 1145])
def test_more_or_fewer_training_images_than_possible_are_refused(count: int) -> None:
    digits = datasets()["digits"].load(Path("nowhere"))
    with pytest.raises(RequestError, match=rf"recipe.training_images = {count}: valid are 10 .* to 1144 "):
        check_split(digits.train, 0.15, count)


def test_label_noise_replaces_the_share_of_the_training_labels_and_no_other() -> None:
    data = load()
    noisy, again, other = (with_label_noise(data, 0.3, seed) for seed in (0, 0, 1))
    wrong = (noisy.train.targets != data.train.targets).nonzero().flatten()
    assert torch.equal(wrong, noisy.replaced)
    assert len(wrong) == round(0.3 * len(data.train))
    assert noisy.validation is data.validation
    assert noisy.test is data.test
    assert int(noisy.train.targets.min()) == 0
    assert int(noisy.train.targets.max()) == 9
    assert torch.equal(noisy.train.targets, again.train.targets)
    assert not torch.equal(noisy.replaced, other.replaced)
    shifts = torch.bincount((noisy.train.targets - data.train.targets)[wrong] % 10, minlength=10)[1:]
    assert int(shifts.min()) > len(wrong) / 9 / 2  # every other label is about equally frequent


def numbered(split_seed: int = 0) -> Data:
    """Return twenty images. Image i has the value i in every pixel and the class i % 2."""
    images = Images(torch.arange(20, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 2, 2), torch.arange(20) % 2)
    dataset = Dataset(images, images, 2, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    return prepare(dataset, 0.3, split_seed, torch.device("cpu"))


def numbers(images: Images | Streamed) -> list[int]:
    assert bool((images.targets == images.pixels[:, 0, 0, 0] % 2).all())
    return images.pixels[:, 2, 1, 1].tolist()


def test_the_random_choices_are_those_of_version_0_1() -> None:
    """Check the choices of a seed, because other choices would change every result."""
    data = numbered()
    assert numbers(data.validation) == [2, 3, 7, 10, 12, 15]
    assert numbers(numbered(5).validation) == [1, 3, 8, 10, 13, 14]
    assert numbers(data.train) == [i for i in range(20) if i not in (2, 3, 7, 10, 12, 15)], "in the given order"
    assert numbers(scoring_images(data.test, 3, None, 2, 0)) == [4, 7, 5, 19, 12, 6]
    assert numbers(scoring_images(data.test, "all", 5, 2, 0)) == [13, 0, 2, 1, 17]
    assert numbers(scoring_images(data.test, 4, 6, 2, 0)) == [5, 18, 19, 11, 12, 4]
    assert numbers(scoring_images(data.test, "all", None, 2, 0)) == list(range(20))


def test_a_class_with_too_few_images_gives_all_it_has() -> None:
    few = numbered().test[torch.tensor([0, 1, 2, 4, 6, 8])]
    chosen = numbers(scoring_images(few, 3, None, 2, 0))
    assert len(chosen) == len(set(chosen)) == 4
    assert 1 in chosen


def test_batches_are_the_images_asked_for() -> None:
    images = numbered().test
    assert numbers(Images(images.example(), images.targets[:1])) == [0]
    assert [numbers(batch) for batch in images.in_order(8)] == [[*range(8)], [*range(8, 16)], [*range(16, 20)]]
    order, parts = torch.arange(19, -1, -1), [slice(0, 2), slice(18, 25)]
    assert [numbers(batch) for batch in images.batches(order, parts)] == [[19, 18], [1, 0]]
    augmented = images.batches(order, parts, Augmentation("crop", 2, torch.Generator().manual_seed(0)))
    assert [int((batch.pixels == 0).any()) for batch in augmented] == [1, 1]


def test_inputs_are_pixels_minus_mean_over_standard_deviation() -> None:
    data = numbered()
    expected = [[(i / 255 - mean) / std for mean, std in ((0.1, 0.5), (0.2, 0.6), (0.3, 0.7))] for i in range(20)]
    inputs = data.inputs(data.test.pixels)
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs[:, :, 0, 1], torch.tensor(expected))


def test_inputs_are_normalised_by_the_training_pixels() -> None:
    data = load(fraction=0.0)
    inputs = data.inputs(data.train.pixels)
    assert abs(float(inputs.mean())) < 1e-4
    assert abs(float(inputs.std()) - 1) < 1e-3


def test_scoring_samples_are_balanced_seeded_and_from_the_training_images() -> None:
    """Exclude finding F2: scoring data from held-out images, without a seed."""
    data = load()
    a = scoring_images(data.train, 7, None, 10, seed=0)
    assert torch.bincount(a.targets).tolist() == [7] * 10
    assert as_set(a) <= as_set(data.train)
    assert as_set(a) == as_set(scoring_images(data.train, 7, None, 10, seed=0))
    assert as_set(a) != as_set(scoring_images(data.train, 7, None, 10, seed=1))
    assert len(scoring_images(data.train, "all", None, 10, seed=0)) == len(data.train)


def test_scoring_samples_can_be_one_random_batch() -> None:
    data = load()
    a = scoring_images(data.train, "all", 128, 10, seed=0)
    assert len(a) == 128
    assert as_set(a) <= as_set(data.train)
    assert as_set(a) != as_set(scoring_images(data.train, "all", 128, 10, seed=1))


def test_crop_and_flip_are_exact_and_drawn_per_image() -> None:
    pixels = torch.arange(2 * 3 * 5 * 6, dtype=torch.uint8).view(2, 3, 5, 6).repeat(50, 1, 1, 1) + 1

    def change(how: str, seed: int) -> torch.Tensor:
        return augment(pixels, Augmentation(how, 2, torch.Generator().manual_seed(seed)))

    out = change("crop-flip", 0)
    assert out.shape == pixels.shape
    assert out.dtype == torch.uint8
    padded = torch.nn.functional.pad(pixels, [2] * 4)
    kinds = set()
    for source, image in zip(padded, out, strict=True):
        matches = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            if torch.equal(image.flip(2) if flip else image, source[:, top : top + 5, left : left + 6])
        ]
        assert len(matches) >= 1
        kinds.add(matches[0])
    assert len(kinds) > 20
    assert torch.equal(out, change("crop-flip", 0))
    assert torch.equal(pixels, change("none", 0))


@pytest.mark.parametrize("how", ["crop", "flip", "crop-flip"])
def test_every_crop_and_flip_is_equally_likely(how: str) -> None:
    """Count crops and flips by the position of the single bright pixel of every image."""
    n, crops, flips = 6000, 9 if "crop" in how else 1, 2 if "flip" in how else 1
    pixels = torch.zeros(n, 1, 8, 9, dtype=torch.uint8)
    pixels[:, 0, 4, 2] = 200
    out = augment(pixels, Augmentation(how, 1, torch.Generator().manual_seed(0)))
    assert bool((out.sum((1, 2, 3)) == 200).all())
    places, counts = out.flatten(1).argmax(1).unique(return_counts=True)
    rows, columns = [3, 4, 5] if "crop" in how else [4], [1, 2, 3] if "crop" in how else [2]
    columns += [8 - column for column in columns] if "flip" in how else []
    assert set(places.tolist()) == {9 * row + column for row in rows for column in columns}
    assert bool(((counts / n * crops * flips - 1).abs() < 0.25).all())  # five standard deviations


def test_unknown_dataset_names_the_valid_ones() -> None:
    with pytest.raises(RequestError, match="unknown dataset 'digit'; did you mean 'digits'"):
        datasets()["digit"]
