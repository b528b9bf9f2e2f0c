"""The data of one run: validation split, normalisation, scoring samples."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil

import torch
from torch import Tensor

from pbt_bench.data.images import Dataset, ImageSet
from pbt_bench.errors import RequestError
from pbt_bench.seeds import derive, stream


@dataclass(frozen=True)
class Data:
    """The images of one run on its device. Validation images come from the training set, never from the test set.

    `replaced` has the indices of the training images whose labels are noise.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: int
    mean: Tensor  # [1, channels, 1, 1]
    std: Tensor
    replaced: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))  # indices into `train`

    def inputs(self, pixels: Tensor) -> Tensor:
        """Return the pixels as normalised float32 network inputs."""
        return (pixels.float() / 255 - self.mean) / self.std


def prepare(
    dataset: Dataset,
    validation_fraction: float,
    split_seed: int,
    device: torch.device,
    training_images: int | None = None,
) -> Data:
    """Split off the stratified validation images, independently of the run's seed, and move all images to `device`.

    Of the other images, `training_images` are used, stratified by class (default: all).
    """
    train, validation = _split(dataset.train, validation_fraction, derive(split_seed, "validation split") % 2**32)
    check_split(dataset.train, validation_fraction, training_images)
    if training_images is not None:
        train = _stratified(train, training_images, split_seed)

    def channelwise(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)

    train, validation, test = (images.to(device) for images in (train, validation, dataset.test))
    return Data(train, validation, test, dataset.classes, channelwise(dataset.mean), channelwise(dataset.std))


def with_label_noise(data: Data, share: float, seed: int) -> Data:
    """Return `data` with another label, drawn uniformly, for round(share * n) of its n training images.

    Scoring and warm-up read these labels, too; the labels of validation and test images are those of the dataset.
    """
    generator = stream(seed, "label noise")
    count = round(share * len(data.train))
    chosen = torch.randperm(len(data.train), generator=generator)[:count].sort().values
    shifts = torch.randint(1, data.classes, (count,), generator=generator)
    targets = data.train.targets.clone()
    chosen, shifts = chosen.to(targets.device), shifts.to(targets.device)
    targets[chosen] = (targets[chosen] + shifts) % data.classes
    return replace(data, train=replace(data.train, targets=targets), replaced=chosen)


def check_split(images: ImageSet, fraction: float, training_images: int | None = None) -> None:
    """Raise RequestError, naming the field, unless the images can be divided by class.

    `fraction` of them are for validation, and `training_images` of the others for training (default: all).
    """
    counts = images.targets.bincount().tolist()
    if training_images is not None:
        classes, others = len(counts) - counts.count(0), len(images) - ceil(fraction * len(images))
        if not classes <= training_images <= others:
            valid = f"valid are {classes} (one of each class) to {others} (all outside the validation split)"
            raise RequestError(f"recipe.training_images = {training_images}: {valid}")
    if fraction == 0:
        return
    field = f"recipe.validation_fraction = {fraction:g}"
    if 1 in counts:
        one = counts.index(1)
        raise RequestError(f"{field} needs two training images of every class or more, and class {one} has one")
    held, classes = ceil(fraction * len(images)), len(counts) - counts.count(0)
    if min(held, len(images) - held) < classes:
        parts = f"{len(images)} training images into {len(images) - held} and {held}"
        raise RequestError(f"{field} splits {parts}: either part needs one of each of the {classes} classes")


def _split(images: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    from sklearn.model_selection import train_test_split

    check_split(images, fraction)
    index = torch.arange(len(images))
    if fraction == 0:
        return images, images[index[:0]]
    kept, held = train_test_split(index.numpy(), test_size=fraction, stratify=images.targets.numpy(), random_state=seed)
    return images[torch.as_tensor(kept).sort().values], images[torch.as_tensor(held).sort().values]


def _stratified(images: ImageSet, count: int, seed: int) -> ImageSet:
    """Return `count` images, in their order: from every class the same share, up to rounding, and one or more."""
    generator = stream(seed, "training images")
    share = torch.empty(len(images), dtype=torch.float64)  # of its class that is drawn before the image
    for label in images.targets.unique():
        members = (images.targets == label).nonzero().flatten()
        share[members[torch.randperm(len(members), generator=generator)]] = torch.arange(
            len(members), dtype=torch.float64
        ) / len(members)
    return images[share.argsort(stable=True)[:count].sort().values]


def scoring_images(
    images: ImageSet,
    samples_per_class: int | str,
    most_samples: int | None,
    classes: int,
    seed: int,
    order: str = "shuffled",
) -> ImageSet:
    """Draw `samples_per_class` images of every class in random order, at most `most_samples` in total.

    A smaller class gives all its images. With `samples_per_class` "all" and no `most_samples`, all images are returned
    in their order. `order` "class" sorts the result by class; "cycle" takes the first image of every class, then the
    second of every class, and so on.
    """
    generator = stream(seed, "scoring samples")
    targets = images.targets.cpu()
    index = torch.arange(len(images))
    if samples_per_class != "all":
        chosen = []
        for label in range(classes):
            members = (targets == label).nonzero().flatten()
            chosen.append(members[torch.randperm(len(members), generator=generator)[: int(samples_per_class)]])
        index = torch.cat(chosen)
    if samples_per_class != "all" or most_samples is not None:
        index = index[torch.randperm(len(index), generator=generator)[:most_samples]]
    if order != "shuffled":
        index = index[targets[index].argsort(stable=True)]
    if order == "cycle":
        counts = targets[index].bincount(minlength=classes)
        turn = torch.arange(len(index)) - (counts.cumsum(0) - counts)[targets[index]]
        index = index[turn.argsort(stable=True)]
    return images[index.to(images.targets.device)]
