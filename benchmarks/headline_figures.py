"""Draw the figures at the top of the readme from the packed studies: `python benchmarks/headline_figures.py`."""

from __future__ import annotations

from pathlib import Path

import pbt_bench
from pbt_bench import plot

ROOT = Path(__file__).parents[1]
METHODS = ("dense", "random", "random_erk", "magnitude", "snip", "grasp", "synflow", "fts", "iterative_snip", "imp")
STUDIES = ("fmnist_lenet300", "fmnist_conv", "fmnist_resnet")


def main() -> None:
    """Write docs/accuracy-MODEL.png for every packed study of accuracies."""
    for name in STUDIES:
        pack = ROOT / f"results/reference/{name}.pack"
        if not pack.is_file():
            continue
        frame = pbt_bench.load_results(pack)
        frame = frame[frame["method"].str.split(" ").str[0].isin(METHODS)]
        (drawn,) = plot.accuracy(frame)
        path = ROOT / f"docs/accuracy-{frame['model'].iloc[0]}.png"
        drawn.savefig(path, dpi=200)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
