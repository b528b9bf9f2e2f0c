"""Training step of ResNet-20 with SNIP masks of single weights and of whole channels: masked-dense / what remains.

Ratios of medians over alternating steps (batches of 128 random images, float32, one thread), in processor seconds, on
which other processes have little effect. Arguments: sparsities.
"""

from __future__ import annotations

import sys
from statistics import median
from time import process_time

import torch
from speed import images, random_images

import pbt_bench
from pbt_bench.data.run_data import Data
from pbt_bench.models import build
from pbt_bench.pruning.masks import Ranking, pruned_count
from pbt_bench.pruning.patterns import channels
from pbt_bench.running.worker import keep_freed_memory
from pbt_bench.spec import Recipe
from pbt_bench.training.stepper import Stepper


def seconds(masks: dict[str, torch.Tensor], repetitions: int = 11) -> list[float]:
    """Return the median seconds of a step with execution = "dense", "auto" and "compact", after one untimed step."""
    train, half = random_images(128), torch.full((1, 3, 1, 1), 0.5)
    data = Data(train, train, train, 10, half, half)
    recipes = [Recipe(batch_size=128, execution=execution) for execution in ("dense", "auto", "compact")]
    steppers = [Stepper(build("resnet20", 3, 10, seed=0), masks, data, recipe, 0, "train") for recipe in recipes]
    times: list[list[float]] = [[] for _ in steppers]
    for number in range(repetitions + 1):
        for stepper, taken in zip(steppers, times, strict=True):
            start = process_time()
            stepper.epoch(number + 1)
            taken.append(process_time() - start)
    return [median(taken[1:]) for taken in times]


def main() -> None:
    """Print a row per sparsity and pattern."""
    keep_freed_memory()  # as in workers
    torch.set_num_threads(1)
    model, data = build("resnet20", 3, 10, seed=0), images(100, 100)
    scores = pbt_bench.score(model, data, method="snip")
    print("sparsity  pattern  realised  flops  dense ms  dense/auto  dense/compact")
    for sparsity in map(float, sys.argv[1:] or (0.5, 0.8, 0.9, 0.95)):
        found = {"none": Ranking(scores, "global").masks(sparsity)}
        found["channel"] = channels(
            model, scores, data[0][0], pruned_count(sparsity, sum(s.numel() for s in scores.values()))
        )
        for pattern, masks in found.items():
            state = pbt_bench.diagnose(model, masks, data[0][0])
            dense, auto, compact = seconds(masks)
            share = f"{state.sparsity:8.4f}  {state.flops_sparse / state.flops_dense:5.3f}  {1e3 * dense:8.0f}"
            print(f"{sparsity:8g}  {pattern:7}  {share}  {dense / auto:10.2f}  {dense / compact:13.2f}", flush=True)


if __name__ == "__main__":
    main()
