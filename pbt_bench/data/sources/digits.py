"""The handwritten digits that scikit-learn contains: no download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pbt_bench.data import dataset

if TYPE_CHECKING:
    from pbt_bench.data.images import Dataset


@dataset(
    cite="Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits, in scikit-learn",
    test_images=450,
    files=(),
)
def digits(folder: Path) -> Dataset:
    """1,797 real 8x8 grey images of handwritten digits, 10 classes; a quarter is the test set, stratified, fixed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    from pbt_bench.data.images import from_arrays

    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 1, 8, 8) * 15).astype("uint8")  # 0..16 -> 0..240
    x_train, x_test, y_train, y_test = train_test_split(pixels, labels, test_size=0.25, stratify=labels, random_state=0)
    return from_arrays(x_train, y_train, x_test, y_test)
