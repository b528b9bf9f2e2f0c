import numpy as np

from pbt_bench.data import dataset


@dataset(cite="made for the tests")
def checkers(folder):
    """Noisy checkerboards of three sizes, 8x8 pixels."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 3
    rows, columns = np.indices((8, 8))
    boards = np.stack([(rows // size + columns // size) % 2 * 150 for size in (1, 2, 4)])
    images = (boards[labels] + rng.integers(100, size=(240, 8, 8)))[:, None].astype("uint8")
    return images[:180], labels[:180], images[180:], labels[180:]
