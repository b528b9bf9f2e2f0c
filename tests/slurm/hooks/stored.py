"""A dataset in a file, to test its copies on the nodes. The file has the images of `digits`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pbt_bench.data import dataset, load
from pbt_bench.data.images import Dataset


@dataset(cite="as digits", files=("stored.npz",))
def stored(folder: Path) -> Dataset:
    """The images of digits."""
    with np.load(folder / "stored.npz") as file:
        assert file["labels"].shape == (1797,)
    return load("digits", folder)
