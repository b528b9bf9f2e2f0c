"""Streamed images: batches are read from image files while they are used, for datasets too large for memory."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Files

from pbt_bench.data import tuning
from pbt_bench.data.image_tensors import Augmentation, Images, send
from pbt_bench.errors import RequestError
from pbt_bench.seeds import derive

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Streamed:
    """Image files and class indices int64 [n]; batches are uint8 [b, 3, side, side] on `device`.

    For training, "crop" is a random resized crop and "flip" a horizontal flip, with one draw per image and epoch. The
    draws do not depend on the number of loader processes. Without "crop", the shorter side is resized to 8/7 of `side`
    and the centre is cropped.
    """

    paths: NDArray[np.bytes_]
    targets: Tensor
    side: int
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Tensor) -> Streamed:
        return replace(self, paths=self.paths[index.cpu().numpy()], targets=self.targets[index.to(self.targets.device)])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return 3, self.side, self.side

    def to(self, device: torch.device) -> Streamed:
        """Return the same images with batches on `device`."""
        return replace(self, targets=self.targets.to(device), device=device)

    def example(self) -> Tensor:
        """Return the first image, [1, 3, side, side]."""
        return _ImageReader(self.paths, self.side, None)[0][None].to(self.device)

    def contents(self) -> Iterator[bytes]:
        """Yield folder, name and size of every file."""
        for path in map(os.fsdecode, self.paths):
            yield f"{Path(path).parent.name}/{Path(path).name} {os.stat(path).st_size}\n".encode(
                errors="surrogateescape"
            )

    def in_order(self, size: int) -> Iterator[Images]:
        """Iterate over all images in batches of `size`."""
        parts = [slice(start, start + size) for start in range(0, len(self), size)]
        return self.batches(torch.arange(len(self)), parts)

    def batches(
        self, order: Tensor, parts: Iterable[slice], augmentation: Augmentation | None = None
    ) -> Iterator[Images]:
        """Yield the images `order[part]` for every part, prefetched by loader processes."""
        indices = [order[part].tolist() for part in parts]
        cuda = self.device.type == "cuda"
        loader: Iterable[Tensor] = DataLoader(
            _ImageReader(self.paths, self.side, augmentation),
            batch_sampler=indices,
            num_workers=_loaders(indices),
            pin_memory=cuda,
            worker_init_fn=_detach,
            generator=torch.Generator(),  # the default is the global generator, from which dropout draws
        )
        targets = self.targets
        for index, pixels in zip(indices, loader, strict=True):
            chosen = send(torch.tensor(index), targets.device)
            yield Images(pixels.to(self.device, non_blocking=cuda), targets[chosen])


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in `folder`, in order: one per class."""
    if not folder.is_dir():
        raise RequestError(f"{folder} is missing")
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise RequestError(f"{folder} holds no folder per class")
    return names


def read_folders(folder: Path, classes: Sequence[str], side: int) -> Streamed:
    """Find the image files of every class in `folder`."""
    paths: list[bytes] = []
    targets = []
    for label, name in enumerate(classes):
        with os.scandir(folder / name) as entries:
            found = sorted(os.fsencode(e.path) for e in entries if e.name.lower().endswith(SUFFIXES))
        if not found:
            raise RequestError(f"{folder / name} holds no image ({', '.join(SUFFIXES)})")
        paths += found
        targets += [label] * len(found)
    return Streamed(np.array(paths), torch.tensor(targets), side)


class _ImageReader(Files[Tensor]):
    """The images as uint8 tensors [3, side, side], read one at a time in the loader processes."""

    def __init__(self, paths: NDArray[np.bytes_], side: int, augmentation: Augmentation | None) -> None:
        from torchvision.transforms import v2

        how = augmentation.how if augmentation else "none"
        whole: list[Any] = [v2.Resize(round(side * 8 / 7)), v2.CenterCrop(side)]
        steps = [v2.RandomResizedCrop(side)] if "crop" in how else whole
        self._change = v2.Compose([*steps, v2.RandomHorizontalFlip()] if "flip" in how else steps)
        self._paths = paths
        self._seed = augmentation.generator.initial_seed() if augmentation else 0

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image
        from torchvision.transforms.v2.functional import pil_to_tensor

        path = os.fsdecode(self._paths[index])
        try:
            with Image.open(path) as image:
                pixels: Tensor = pil_to_tensor(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # of PIL for damaged files
            raise RequestError(f"{path} cannot be read: {error}") from None
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.manual_seed(derive(self._seed, "image", index))
            changed: Tensor = self._change(pixels)
        return changed


def _loaders(batches: Sequence[object]) -> int:
    """Return the number of loader processes: one fewer than the cores. The images read do not depend on it."""
    return min(len(os.sched_getaffinity(0)) - 1, len(batches), tuning.MOST_LOADERS)


def _detach(_: int) -> None:
    """End a loader process at SIGTERM and ignore SIGINT: the parent process saves the run."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
