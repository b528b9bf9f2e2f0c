"""Speed measurements of `make speed`.

A figure is the ratio of two measurements of the same call, or an absolute number of seconds or GiB, as its title says.
The script prints a table and writes results/speed.json. It uses two threads and medians of paired repetitions.
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import pbt_bench
from pbt_bench.data.image_tensors import Images
from pbt_bench.data.run_data import Data as Prepared
from pbt_bench.models import build
from pbt_bench.models.model_state import preserved
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning.masks import Ranking
from pbt_bench.pruning.plugins import pruners
from pbt_bench.pruning.scoring import Scorer
from pbt_bench.pruning.statistic_values import compute
from pbt_bench.pruning.task import Task
from pbt_bench.running.environment import emulates_bfloat16
from pbt_bench.running.worker import keep_freed_memory
from pbt_bench.spec import Recipe, Scoring
from pbt_bench.training.stepper import Stepper

ONE_SHOT = ("random", "magnitude", "grad_norm", "snip", "grasp", "fisher_diagonal", "fisher_pruning", "fbss", "fts")
SPARSITIES = [round(0.05 * i, 2) for i in range(1, 18)] + [0.9, 0.95, 0.98]
Data = list[tuple[Tensor, Tensor]]


class Unavailable(Exception):
    """Raised for a figure that this machine cannot measure."""


def seconds(action: Callable[[], object]) -> float:
    """Return the wall-clock seconds of one call."""
    start = perf_counter()
    action()
    return perf_counter() - start


def paired(a: Callable[[], object], b: Callable[[], object], repetitions: int = 3) -> tuple[float, float]:
    """Return the median seconds of `a` and `b`, called alternately after one untimed call of each."""
    a(), b()
    times = [(seconds(a), seconds(b)) for _ in range(repetitions)]
    return median(t for t, _ in times), median(t for _, t in times)


def images(samples: int, batch: int, side: int = 32) -> Data:
    """Return random images in batches."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 3, side, side, generator=generator)
    y = torch.randint(10, (samples,), generator=generator)
    return list(zip(x.split(batch), y.split(batch), strict=True))


def plain_pass(model: nn.Module, data: Data) -> None:
    """Run one ordinary forward and backward pass."""
    model.zero_grad()
    for x, y in data:
        F.cross_entropy(model(x), y).backward()


def scoring_pass() -> tuple[float, str]:
    """Compare gradient and per-sample Fisher diagonal with a plain pass: ResNet-18, 256 images in batches of 128."""
    model, data = build("resnet18", 3, 10, seed=0).eval(), images(256, 128)
    task = Task(model, prunable(model), data, Scoring(), seed=0)

    def fisher() -> None:
        with preserved(model):
            compute(task, ["gradient", "fisher_diagonal"])

    ours, plain = paired(fisher, lambda: plain_pass(model, data))
    return ours / plain, f"{ours:.2f} s over {plain:.2f} s"


def one_at_a_time(model: nn.Module, data: Data, method: str, sparsity: float) -> None:
    """Compute one mask as published code does, from gradients of single images that are repeated for every mask."""
    weights = prunable(model)
    values: dict[str, dict[str, Tensor]] = {"weight": {n: p.detach() for n, p in weights.items()}}
    needs = pruners()[method].needs
    if "uniform" in needs:
        values["uniform"] = {n: torch.rand(p.shape) for n, p in weights.items()}
    if "gradient" in needs or "fisher_diagonal" in needs:
        total, square = ({n: torch.zeros_like(p) for n, p in weights.items()} for _ in range(2))
        for x, y in data:
            gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(weights.values()))
            for name, gradient in zip(weights, gradients, strict=True):
                total[name] += gradient / len(data)
                square[name] += gradient.square() / len(data)
        values |= {"gradient": total, "fisher_diagonal": square}
    if "hessian_gradient" in needs:
        with preserved(model):
            task = Task(model, weights, data, Scoring(), seed=0)
            values |= compute(task, ["hessian_gradient"]).values
    scores = {n: pruners()[method].function(*(values[need][n] for need in needs)) for n in weights}
    Ranking(scores, "global").masks(sparsity)


def shared_scoring() -> tuple[float, str]:
    """Compare nine one-shot methods x 20 sparsities, one at a time and with shared passes: ResNet-20, 32 images."""
    model, data = build("resnet20", 3, 10, seed=0).eval(), images(32, 32)
    singles = [(x, y) for batch in data for x, y in zip(batch[0].split(1), batch[1].split(1), strict=True)]

    def shared() -> None:
        scorer = Scorer(model, data, Scoring(), 0)
        for method in ONE_SHOT:
            for sparsity in SPARSITIES:
                scorer.prune(method, sparsity)

    shared()
    ours = seconds(shared)
    theirs = sum(
        seconds(lambda m=method, s=sparsity: one_at_a_time(model, singles, m, s))  # type: ignore[misc]
        for method in ONE_SHOT
        for sparsity in SPARSITIES
    )
    return theirs / ours, f"{theirs:.1f} s over {ours:.2f} s"


def hundred_masks() -> tuple[float, str]:
    """Measure the absolute seconds for masks of 100 sparsities of ResNet-18 (11 million weights) from given scores."""
    model = build("resnet18", 3, 10, seed=0)
    scores = {name: p.detach().abs() for name, p in prunable(model).items()}

    def masks() -> None:
        ranking = Ranking(scores, "global")
        for index in range(100):
            ranking.masks(index / 100)

    masks()
    took = seconds(masks)
    return took, f"{took:.2f} s for {sum(s.numel() for s in scores.values()):,} weights"


def published_synflow(model: nn.Module, inputs: Tensor, sparsity: float, rounds: int) -> None:
    """Run SynFlow in the steps of its published code, in float64.

    The steps of every round: absolute values, forward and backward pass, scores, original signs, k-th lowest score,
    masks.
    """
    model = copy.deepcopy(model).double()
    state = [t for t in model.state_dict().values() if t.is_floating_point()]
    weights = prunable(model)
    masks = {name: torch.ones_like(w) for name, w in weights.items()}
    for index in range(1, rounds + 1):
        signs = [tensor.sign() for tensor in state]
        torch._foreach_abs_(state)
        masked = {name: w * masks[name] for name, w in weights.items()}
        functional_call(model, masked, (torch.ones_like(inputs[:1]).double(),)).sum().backward()
        scores = {name: (w.detach() * w.grad).abs() for name, w in weights.items() if w.grad is not None}
        model.zero_grad()
        torch._foreach_mul_(state, signs)
        flat = torch.cat([s.flatten() for s in scores.values()])
        threshold = flat.kthvalue(int((1 - (1 - sparsity) ** (index / rounds)) * flat.numel())).values
        for name, score in scores.items():
            masks[name].copy_(torch.where(score <= threshold, 0.0, 1.0))


def synflow_round() -> tuple[float, str]:
    """Compare a SynFlow round with a round of the published code: VGG-19, 20 million weights, 10 rounds."""
    model, data = build("vgg19", 3, 10, seed=0).eval(), images(1, 1)
    ours, plain = paired(
        lambda: pbt_bench.prune(model, data, method="synflow", sparsity=0.98, rounds=10),
        lambda: published_synflow(model, data[0][0], 0.98, 10),
    )
    return ours / plain, f"{ours * 100:.0f} ms over {plain * 100:.0f} ms"


def epoch(train: Images, sparsity: float, recipe: Recipe) -> Callable[[], object]:
    """Return an action: an epoch (forward, backward, update, masks) of ResNet-18 on `train` with a SNIP mask."""
    model, data = build("resnet18", 3, 10, seed=0), images(100, 100)
    masks = pbt_bench.prune(model, data, method="snip", sparsity=sparsity)
    pbt_bench.apply(model, masks)
    half = torch.full((1, 3, 1, 1), 0.5)
    stepper = Stepper(model, masks, Prepared(train, train, train, 10, half, half), recipe, 0, "train")
    return lambda: stepper.epoch(stepper.step // stepper.steps_per_epoch + 1)


def random_images(count: int) -> Images:
    """Return random images of CIFAR's size in the format of a dataset."""
    return Images(torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (count,)))


def training(precision: str = "float32", execution: str = "dense", sparsity: float = 0.0) -> Callable[[], object]:
    """Return an action: one training step, as an epoch of one batch of 64 images."""
    return epoch(random_images(64), sparsity, Recipe(batch_size=64, precision=precision, execution=execution))


def one_thread(a: Callable[[], object], b: Callable[[], object]) -> tuple[float, str]:
    """Return the seconds of `a` divided by those of `b` with one thread, as in a run with threads = 1."""
    torch.set_num_threads(1)
    slow, quick = paired(a, b, repetitions=5)
    torch.set_num_threads(2)
    return slow / quick, f"{slow * 1e3:.0f} ms over {quick * 1e3:.0f} ms"


def compact(sparsity: float) -> Callable[[], tuple[float, str]]:
    """Compare a training step, masked-dense and with `execution = "auto"`, both channels_last and float32."""
    return lambda: one_thread(training(sparsity=sparsity), training(execution="auto", sparsity=sparsity))


def bfloat16() -> tuple[float, str]:
    """Compare a dense training step in float32 and in bfloat16 autocast."""
    if emulates_bfloat16():
        raise Unavailable("this processor has no bfloat16 instructions")
    return one_thread(training(), training(precision="bfloat16"))


@cache
def hundred_thousand() -> dict[str, dict[str, float]]:
    """Measure loading, reporting twice, packing, and loading the pack of 100,000 records, each in its own process."""
    script, runs = str(Path(__file__).with_name("generated_records.py")), "100000"

    def run(verb: str) -> str:
        command = [sys.executable, script, verb, folder, runs]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    with TemporaryDirectory() as parent:
        folder = str(Path(parent) / "records")
        run("write")
        loaded = json.loads(run("load"))
        shutil.rmtree(Path(folder) / "cache")
        reported = {"first": json.loads(run("report")), "again": json.loads(run("report"))}
        return {"load": loaded, **reported, "pack": json.loads(run("pack")), "packed": json.loads(run("load-pack"))}


def large(step: str, part: str) -> Callable[[], tuple[float, str]]:
    """Return a function that measures one absolute number of `hundred_thousand`."""

    def figure() -> tuple[float, str]:
        found = hundred_thousand()[step]
        return found[part], f"{found['seconds']:.1f} s, {found['gib']:.2f} GiB at most"

    return figure


def plain_epoch(train: Images) -> Callable[[], None]:
    """Return an epoch of a common loop: torchvision transforms in loader processes, float32, `.item()` every step."""
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    change = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.25,) * 3),
        ]
    )
    samples = list(zip(train.pixels, train.targets.tolist(), strict=True))

    class Changed(Dataset[tuple[Tensor, int]]):
        def __len__(self) -> int:
            return len(samples)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            image, target = samples[index]
            return change(image), target

    loader = DataLoader(Changed(), batch_size=128, shuffle=True, num_workers=2)
    model = build("resnet18", 3, 10, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)

    def epoch() -> None:
        model.train()
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()

    return epoch


def epoch_over_plain(sparsity: float) -> Callable[[], tuple[float, str]]:
    """Compare an epoch of ResNet-18 at CIFAR size in batches of 128: a plain loop in float32 and pbt-bench.

    pbt-bench uses float32 from sparsity 0.9, for its sparse kernels. Below, it uses bfloat16 if the processor has
    instructions for it.
    """

    def measure() -> tuple[float, str]:
        train = random_images(1024)
        precision = "float32" if emulates_bfloat16() or sparsity >= 0.9 else "bfloat16"
        ours = epoch(train, sparsity, Recipe(batch_size=128, precision=precision, augment="crop-flip"))
        slow, quick = paired(plain_epoch(train), ours, repetitions=2)
        return slow / quick, f"{slow:.1f} s over {quick:.1f} s for {len(train)} images in {precision}"

    return measure


FIGURES: dict[str, tuple[str, Callable[[], tuple[float, str]]]] = {
    "scoring_pass_over_plain": ("gradient + Fisher pass / plain pass (ResNet-18)", scoring_pass),
    "shared_scoring_speedup": ("9 methods x 20 sparsities, alone / shared", shared_scoring),
    "masks_100_sparsities_seconds": ("masks of 100 sparsities, seconds", hundred_masks),
    "synflow_round_over_plain": ("SynFlow round / round of published code, float64 (VGG-19)", synflow_round),
    **{
        f"compact_speedup.{sparsity:g}": (
            f"training step at {sparsity:g}, masked-dense / kept weights",
            compact(sparsity),
        )
        for sparsity in (0.9, 0.98, 0.99, 0.995)
    },
    "load_100k_records_seconds": ("100,000 records into a frame, seconds", large("load", "seconds")),
    "load_100k_records_gib": ("100,000 records into a frame, peak GiB", large("load", "gib")),
    "report_100k_records_seconds": ("100,000 records read and reported, seconds", large("first", "seconds")),
    "pack_100k_records_seconds": ("100,000 records packed into one file, seconds", large("pack", "seconds")),
    "load_100k_packed_seconds": ("100,000 records of a packed file into a frame, seconds", large("packed", "seconds")),
    "report_100k_again_seconds": ("reported once more, from the cache, seconds", large("again", "seconds")),
    **{
        f"epoch_speedup_over_plain_loop.{sparsity}": (
            f"epoch at {sparsity:g}, plain loop / pbt-bench",
            epoch_over_plain(sparsity),
        )
        for sparsity in (0.0, 0.99)
    },
    "bfloat16_speedup": ("training step, float32 / bfloat16 (ResNet-18)", bfloat16),
}


def main() -> int:
    """Measure the figures that the arguments name, by default all figures."""
    keep_freed_memory()  # as in workers
    torch.set_num_threads(2)
    wanted = sys.argv[1:] or list(FIGURES)
    if odd := set(wanted) - set(FIGURES):
        print(f"unknown figure {', '.join(sorted(odd))} (valid: {', '.join(FIGURES)})", file=sys.stderr)
        return 2
    path = Path("results/speed.json")
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() and sys.argv[1:] else {}
    print(f"{'':50} {'figure':>8}  measured")
    for name in wanted:
        title, measure = FIGURES[name]
        try:
            value, text = measure()
        except Unavailable as why:
            print(f"{title:50} {'-':>8}  {why}", flush=True)
            continue
        figure, _, key = name.partition(".")
        if key:
            found.setdefault(figure, {})[key] = round(value, 3)
        else:
            found[figure] = round(value, 3)
        print(f"{title:50} {value:8.2f}  {text}", flush=True)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
