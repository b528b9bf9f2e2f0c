"""Tests of the memory that training takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

STEP = """
import resource, sys, torch
from pbt_bench.data.image_tensors import Images
from pbt_bench.data.run_data import Data
from pbt_bench.models import build
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning.masks import Ranking
from pbt_bench.running.worker import keep_freed_memory
from pbt_bench.spec import Recipe
from pbt_bench.training.stepper import Stepper

keep_freed_memory()  # as workers do
torch.set_num_threads(2)
model = build("resnet18", 3, 10, seed=0)
weights = {name: p.detach().abs() for name, p in prunable(model).items()}
masks = Ranking(weights, "layer").masks(float(sys.argv[1]))
images = Images(torch.randint(256, (512, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (512,)))
half = torch.full((1, 3, 1, 1), 0.5)
Stepper(model, masks, Data(images, images, images, 10, half, half), Recipe(batch_size=512), 0, "train").epoch(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.long
@pytest.mark.parametrize("sparsity", ["0", "0.98"])
def test_resnet18_in_batches_of_512_takes_less_than_6_gib(sparsity: str) -> None:
    """Measure the peak of the whole process: dense, and with sparse kernels."""
    done = subprocess.run([sys.executable, "-c", STEP, sparsity], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert 1 < float(done.stdout) < 6
