"""Generated records with plausible numbers, to measure how the analysis scales. No network is trained.

python benchmarks/generated_records.py write|load|status|report|pack|load-pack FOLDER RUNS
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import sys
from pathlib import Path
from time import perf_counter

from pbt_bench.analysis.pages.report import write_report
from pbt_bench.analysis.records.data_frame import load_results
from pbt_bench.running.merge import pack
from pbt_bench.running.plan import check_names
from pbt_bench.running.record import Epoch, Layer, Metrics, Pruning, RunRecord
from pbt_bench.running.status import summary
from pbt_bench.running.store import Store
from pbt_bench.spec import DENSE, Axes, Grid, RunSpec

_WIDTHS = (64, 64, 64, 64, 64, 128, 128, 128, 128, 128, 256, 256, 256, 256, 256, 512, 512, 512, 512, 512)
_SIZES = [9 * a * b for a, b in zip((3, *_WIDTHS), _WIDTHS, strict=False)] + [5120]  # approximately a ResNet-18
_METHODS = ("random", "magnitude", "snip", "grasp", "synflow", "fts", "grad_norm", "fbss", "force", "random_erk")


def grid(name: str, runs: int) -> Grid:
    """Return a study of at least `runs` runs: 2 datasets, 3 models, 10 methods, 15 sparsities, and seeds as needed."""
    seeds = -(-runs // (2 * 3 * (10 * 15 + 1)))
    axes = Axes(
        dataset=("cifar10", "cifar100"),
        model=("resnet18", "vgg19", "resnet20"),
        method=_METHODS,
        sparsity=tuple(round(1 - 10 ** (-i / 6), 6) for i in range(1, 16)),
        seed=tuple(range(seeds)),
    )
    return check_names(Grid(name=name, grid=axes), name)


def make(spec: RunSpec, epochs: int = 15) -> RunRecord:
    """Return a record of `spec`: accuracy falls with sparsity, late layers become sparser, and seeds add noise."""
    noise = random.Random(spec.run_id)
    density = 1 - spec.sparsity
    rank = _METHODS.index(spec.method) if spec.method in _METHODS else 0
    accuracy = max(0.1, 0.95 - (0.02 + 0.01 * rank) * math.log10(1 / density) ** 2 + noise.gauss(0, 0.005))
    prunable = sum(_SIZES)
    kept = prunable - math.floor(spec.sparsity * prunable + 1e-9)
    tilt = 0.0 if spec.method in (DENSE, "random") else 0.05 * rank
    shares = [size * math.exp(-tilt * depth * math.log10(1 / density)) for depth, size in enumerate(_SIZES)]
    layers = tuple(
        Layer(
            name=f"stages.{depth // 5}.{depth % 5}.conv.weight",
            shape=(size // 9, 9) if size % 9 == 0 else (size,),
            prunable=size,
            kept=min(size, int(kept * share / sum(shares) + noise.random())),
            zero_scores=noise.randrange(1 + size // 100),
        )
        for depth, (size, share) in enumerate(zip(_SIZES, shares, strict=True))
    )
    metrics = Metrics(
        test_accuracy=accuracy,
        test_loss=1 - accuracy,
        validation_accuracy=accuracy + noise.gauss(0, 0.003),
        validation_loss=1 - accuracy,
        train_loss=0.5 * (1 - accuracy),
        best_validation_epoch=epochs,
        test_accuracy_at_best_validation=accuracy,
        chance_accuracy=0.1,
        weights_digest=f"{noise.getrandbits(256):064x}",
    )
    pruning = Pruning(
        prunable=prunable,
        kept=kept,
        sparsity=1 - kept / prunable,
        realised_sparsity=1 - kept / prunable,
        effective_sparsity=1 - 0.98 * kept / prunable,
        zero_score_share=0.0 if spec.method == "random" else 0.01,
        collapsed_layers=sum(layer.kept == 0 for layer in layers),
        flops_dense=1_110_000_000,
        flops_sparse=int(1_110_000_000 * density**0.8),
        scoring_seconds=1 + noise.random(),
        layers=layers,
        rounds=1,
        mask_digest=f"{noise.getrandbits(256):064x}",
    )
    curve = tuple(
        Epoch(
            epoch=epoch,
            train_loss=2 / epoch + 0.1 * noise.random(),
            train_accuracy=accuracy * epoch / epochs * noise.uniform(0.98, 1),
            validation_loss=2 / epoch + 0.1 * noise.random(),
            validation_accuracy=accuracy * epoch / epochs * noise.uniform(0.96, 1),
            learning_rate=0.05 * (1 + math.cos(math.pi * epoch / epochs)),
            realised_sparsity=pruning.realised_sparsity,
            seconds=10 + noise.random(),
        )
        for epoch in range(1, epochs + 1)
    )
    environment = {
        "versions": {"python": "3.11.7", "torch": "2.9.0", "numpy": "2.1.0"},
        "device": "cuda",
        "commit": "0123abc",
        "host": f"node{noise.randrange(8)}",
        "pid": noise.randrange(2**16),
        "started": 1.7e9 + noise.random(),
        "seconds": 150 + noise.random(),
    }
    parts = {"metrics": metrics, "pruning": pruning, "curve": curve, "environment": environment}
    return RunRecord(run_id=spec.run_id, status="done", spec=spec, **parts)  # type: ignore[arg-type]


def write(specs: list[RunSpec], folder: Path) -> None:
    """Write the records of `specs` below `folder`, in the layout of a store."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    for spec in specs:
        record = make(spec)
        with open(os.path.join(folder, "runs", f"{record.run_id}.json"), "wb") as file:
            file.write(record.to_json())


def measure(what: str, folder: Path, runs: int) -> dict[str, float]:
    """Return the seconds and the peak memory (GiB) of one step, such as "load"; "load-pack" loads the packed file."""
    specs = grid("large", runs).runs() if what == "report" else []
    packed = folder.with_name("large.pack")
    start = perf_counter()
    if what == "load":
        load_results(folder)
    elif what == "status":
        summary(grid("large", runs), Store(folder), ask_slurm=False)
    elif what == "pack":
        pack(folder, packed)
    elif what == "load-pack":
        load_results(packed)
    else:
        write_report("large", specs, Store(folder), folder / "report")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": perf_counter() - start, "gib": peak}


if __name__ == "__main__":
    verb, where, count = sys.argv[1:]
    if verb == "write":
        write(grid("large", int(count)).runs(), Path(where))
    else:
        print(json.dumps(measure(verb, Path(where), int(count))))
