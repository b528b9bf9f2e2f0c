"""A dataset in a file, to test its copies on the nodes. The file has the images of `digits`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pbt_bench.data import dataset, load


@dataset(cite="as digits", files=("stored.npz",))
def stored(folder: Path) -> Any:
    """The images of digits."""
    import numpy as np  # here, because every command of the tests imports this file

    with np.load(folder / "stored.npz") as file:
        assert file["labels"].shape == (1797,)
    return load("digits", folder)
