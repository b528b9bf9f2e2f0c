"""Measure every constant of the `tuning` modules: a Markdown table over candidate values, with the value in use marked.

python benchmarks/tuning.py              all constants (minutes), as in benchmarks/tuning.md
python benchmarks/tuning.py NAME ...     only these

A constant is added by a generator under `@measures(module, NAME, columns)`: it yields a row per candidate, candidate
first, and its docstring says what the columns are. Times are the least processor time of several rounds, on one
thread, or seconds of the clock where processes or files are waited for. Compare only rows of one table.
"""

from __future__ import annotations

import datetime
import inspect
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from types import ModuleType
from typing import TypeVar

import torch
import torch.nn.functional as F
from scale import slow_files
from torch import Tensor, nn

from pbt_bench.data import stream
from pbt_bench.data import tuning as data_tuning
from pbt_bench.data.image_tensors import Images
from pbt_bench.data.images import _mean_and_std
from pbt_bench.data.run_data import Data
from pbt_bench.models import build
from pbt_bench.models.model_state import preserved
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning import tuning as pruning_tuning
from pbt_bench.pruning.group_gradients import group_sums
from pbt_bench.pruning.statistic_values import compute
from pbt_bench.pruning.task import Task
from pbt_bench.running import tuning as running_tuning
from pbt_bench.running.claims import Claims
from pbt_bench.running.source import code_state
from pbt_bench.running.worker import keep_freed_memory
from pbt_bench.sparse import memory_format
from pbt_bench.sparse import tuning as sparse_tuning
from pbt_bench.sparse.kept_weights import KeptWeights
from pbt_bench.sparse.live_channels import take
from pbt_bench.sparse.sparse_convolution import Pattern, convolve
from pbt_bench.spec import Recipe, Scoring
from pbt_bench.training import tuning as training_tuning
from pbt_bench.training.loop import evaluate
from pbt_bench.training.stepper import Stepper

Key = TypeVar("Key")
Rows = Iterator[tuple[object, ...]]
SLOW_FILE_SECONDS = 0.02  # per operation of a slow file system, as in scale.py
MEASURES: dict[str, tuple[ModuleType, tuple[str, ...], Callable[[], Rows]]] = {}


def measures(module: ModuleType, name: str, *columns: str) -> Callable[[Callable[[], Rows]], Callable[[], Rows]]:
    """Register the measurement of the constant `name` of `module`; `columns` are the titles of its table."""

    def register(function: Callable[[], Rows]) -> Callable[[], Rows]:
        MEASURES[name] = (module, columns, function)
        return function

    return register


def fastest(
    actions: Mapping[Key, Callable[[], object]], rounds: int = 5, clock: Callable[[], float] = process_time
) -> dict[Key, float]:
    """Return the least time of each action in `rounds` rounds of all, after one round that is not timed.

    Other work on the machine only adds time, and the rounds spread it over all actions.
    """
    times: dict[Key, list[float]] = {key: [] for key in actions}
    for _ in range(rounds + 1):
        for key, action in actions.items():
            start = clock()
            action()
            times[key].append(clock() - start)
    return {key: min(each[1:]) for key, each in times.items()}


@contextmanager
def tuned(module: ModuleType, **values: object) -> Iterator[None]:
    """Replace constants of a module inside the context."""
    before = {name: getattr(module, name) for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(before)


def under(module: ModuleType, make: Callable[[], Callable[[], object]], **values: object) -> Callable[[], object]:
    """Return the action that `make` returns; it is made and called under these values of constants."""
    with tuned(module, **values):
        action = make()

    def call() -> None:
        with tuned(module, **values):
            action()

    return call


def activation(examples: int, channels: int, side: int) -> Tensor:
    """Return a random activation, channels last in memory, that needs a gradient."""
    return torch.randn(examples, channels, side, side).to(memory_format=torch.channels_last).requires_grad_()


def passes(function: Callable[[], Tensor], *inputs: Tensor) -> Callable[[], object]:
    """Return an action: a forward and a backward pass of `function` to `inputs`."""
    gradient = torch.ones_like(function())
    return lambda: torch.autograd.grad(function(), inputs, gradient)


def random_mask(shape: tuple[int, ...], density: float) -> Tensor:
    """Return a mask that keeps every weight with probability `density`."""
    return torch.rand(shape) < density


def dense_convolution(x: Tensor) -> Callable[[], object]:
    """Return an action: a forward and a backward pass of a dense 3x3 convolution to as many channels as `x` has."""
    weight = torch.randn(x.shape[1], x.shape[1], 3, 3, requires_grad=True)
    return passes(lambda: F.conv2d(x, weight, padding=1), x, weight)


def sparse_convolution(x: Tensor, mask: Tensor) -> Callable[[], object]:
    """Return an action: a forward and a backward pass of a 3x3 convolution with the kept weights of `mask`."""
    x = memory_format.move(x.detach(), memory_format.batch_last(4)).requires_grad_()
    indices = mask.nonzero()
    weights = torch.randn(len(indices), requires_grad=True)
    pattern = Pattern(indices, torch.arange(len(indices)), mask.shape, x.shape[2:], ([1, 1], [1, 1], [1, 1]))
    return passes(lambda: convolve(x, weights, pattern), x, weights)


def random_images(count: int, side: int = 32) -> Images:
    """Return random colour images of 10 classes."""
    return Images(torch.randint(256, (count, 3, side, side), dtype=torch.uint8), torch.randint(10, (count,)))


def run_data(images: Images) -> Data:
    """Return the data of a run that trains and tests on `images`."""
    half = torch.full((1, 3, 1, 1), 0.5)
    return Data(images, images, images, 10, half, half)


def training_step(model: str, batch: int, density: float, execution: str = "auto") -> Callable[[], object]:
    """Return one training step of `model` with random masks, under the constants in force now."""
    network = build(model, 3, 10, seed=0)
    torch.manual_seed(0)
    masks = {name: random_mask(tuple(weight.shape), density) for name, weight in prunable(network).items()}
    data = run_data(random_images(batch))
    stepper = Stepper(network, masks, data, Recipe(batch_size=batch, execution=execution), 0, "train")
    return lambda: stepper.epoch(stepper.step + 1)


def training_steps(name: str, candidates: Sequence[int]) -> dict[int, float]:
    """Measure a training step of ResNet-20, batches of 128, density 0.1, under each value of a constant."""
    return fastest(
        {
            value: under(sparse_tuning, lambda: training_step("resnet20", 128, 0.1), **{name: value})
            for value in candidates
        }
    )


@measures(sparse_tuning, "LEAST_SAVING", "multiply-adds to save", "ms per step")
def least_saving() -> Rows:
    """Training step of ResNet-20, batches of 128, density 0.1, executed under each bound."""
    for value, took in training_steps("LEAST_SAVING", (1, 10**6, 10**7, 10**8, 10**9, 10**12)).items():
        yield value, f"{took * 1e3:.0f}"


@measures(sparse_tuning, "LEAST_EXAMPLES", "examples in a batch", "time by channels or dense / time by weights")
def least_examples() -> Rows:
    """Training step of ResNet-20 at density 0.02, without and with the way by weights; above 1 that way pays."""
    for batch in (4, 8, 16, 32, 64, 128):
        times = fastest(
            {
                least: under(
                    sparse_tuning,
                    lambda batch=batch: training_step("resnet20", batch, 0.02),  # type: ignore[misc]
                    LEAST_SAVING=1,
                    LEAST_EXAMPLES=least,
                )
                for least in (1, 10**9)
            }
        )
        yield batch, f"{times[10**9] / times[1]:.2f}"


@measures(sparse_tuning, "KEPT_COST", "density", "cost in multiply-adds of a dense convolution")
def kept_cost() -> Rows:
    """3x3 convolution of 128 channels, 16x16 positions, 64 examples, forward and backward."""
    x = activation(64, 128, 16)
    masks = {density: random_mask((128, 128, 3, 3), density) for density in (0.01, 0.02, 0.05, 0.1, 0.2, 0.33)}
    times = fastest({1.0: dense_convolution(x)} | {each: sparse_convolution(x, mask) for each, mask in masks.items()})
    for density, mask in masks.items():
        yield density, f"{times[density] / int(mask.sum()) / (times[1.0] / mask.numel()):.2f}"


@measures(sparse_tuning, "MOVE_COST", "cost", "ms per step", "measured cost, channels x side")
def move_cost() -> Rows:
    """Training step of ResNet-20, batches of 128, density 0.1, under each value; and the cost measured directly.

    The direct figure is the time per entry of an activation of 64 examples whose memory format changes, gradient
    included, in the time per multiply-add of a dense 3x3 convolution of it.
    """
    shapes = ((16, 32), (32, 16), (64, 32), (128, 16), (256, 8))
    steps = training_steps("MOVE_COST", (0, 10, 30, 100, 300))
    for (value, took), (channels, side) in zip(steps.items(), shapes, strict=True):
        x = activation(64, channels, side)
        move = passes(lambda x=x: memory_format.move(x, memory_format.batch_last(4)), x)  # type: ignore[misc]
        times = fastest({"move": move, "dense": dense_convolution(x)})
        cost = times["move"] / times["dense"] * channels * 9
        yield value, f"{took * 1e3:.0f}", f"{cost:.0f}, {channels} x {side}"


def update_ratio(shape: tuple[int, ...], density: float) -> float:
    """Return the time of an update of a whole masked tensor over that of an update of its kept weights."""
    mask, gradient = random_mask(shape, density), torch.randn(shape)
    whole, part = (nn.Parameter(torch.randn(shape)) for _ in range(2))
    kept, factor = KeptWeights(part, mask), mask.float()
    of_whole, of_kept = (torch.optim.SGD([p], 0.1, momentum=0.9, weight_decay=1e-4) for p in (whole, kept.vector))

    def update_whole() -> None:
        whole.grad = gradient
        of_whole.step()
        whole.data.mul_(factor)

    def update_kept() -> None:
        of_kept.zero_grad(set_to_none=True)
        part.grad = gradient
        kept.read_gradient()
        of_kept.step()
        kept.write()

    times = fastest({"whole": update_whole, "kept": update_kept}, 20)
    return times["whole"] / times["kept"]


@measures(sparse_tuning, "FEW_KEPT", "density", "time for the whole tensor / for its kept weights")
def few_kept() -> Rows:
    """Update by SGD with momentum of a tensor of 256x256x3x3 weights; above 1 the vector of kept weights pays."""
    for density in (0.05, 0.1, 0.2, 0.33, 0.5, 0.7):
        yield density, f"{update_ratio((256, 256, 3, 3), density):.2f}"


@measures(sparse_tuning, "LARGE_TENSOR", "weights", "time for the whole tensor / for its kept weights")
def large_tensor() -> Rows:
    """The same update at density 0.1, by size; above 1 the vector of kept weights pays."""
    for side in (10, 32, 100, 316, 1000, 2000):
        yield side**2, f"{update_ratio((side, side), 0.1):.2f}"


@measures(sparse_tuning, "CHANNEL_STEP", "channels to a multiple of", "ms")
def channel_step() -> Rows:
    """Mean time of convolutions of 33 to 48 channels, each filled up to a multiple; 16x16 positions, 32 examples."""
    times = fastest({c: dense_convolution(activation(32, c, 16)) for c in (*range(33, 49), 64)})
    for step in (1, 2, 4, 8, 16, 32):
        yield step, f"{mean(times[-(-c // step) * step] for c in range(33, 49)) * 1e3:.1f}"


@measures(sparse_tuning, "FEW_CHANNELS", "share of channels", "time for all channels / for the selected ones")
def few_channels() -> Rows:
    """Selection of the inputs of a 3x3 convolution of 128 channels, 16x16 positions, 64 examples; above 1 it pays."""
    x = activation(64, 128, 16)
    weight = torch.randn(128, 128, 3, 3, requires_grad=True)

    def selected(share: float) -> Callable[[], object]:
        index = torch.randperm(128)[: int(128 * share)].sort().values
        return passes(lambda: F.conv2d(take(x, index), weight.index_select(1, index), padding=1), x, weight)

    whole = passes(lambda: F.conv2d(x, weight, padding=1), x, weight)
    times = fastest({1.0: whole} | {share: selected(share) for share in (0.25, 0.5, 0.75, 0.875, 0.9375)})
    for share, took in times.items():
        yield share, f"{times[1.0] / took:.2f}"


def pattern_times(candidates: tuple[int, ...], density: float, name: str, **others: int) -> Rows:
    """Yield the time of a sparse 3x3 convolution of 512 channels, 8x8 positions, 64 examples, under each value."""
    x, mask = activation(64, 512, 8), random_mask((512, 512, 3, 3), density)
    actions = {
        value: under(sparse_tuning, lambda: sparse_convolution(x, mask), **{**others, name: value})
        for value in candidates
    }
    for value, took in fastest(actions).items():
        yield value, f"{took * 1e3:.0f}"


@measures(sparse_tuning, "CACHED_CHANNELS", "channels x taps", "ms")
def cached_channels() -> Rows:
    """Convolution of 512 channels at density 0.33, forward and backward, with ROW_WEIGHTS = 1."""
    return pattern_times((16, 64, 128, 256, 512, 1024, 4608), 0.33, "CACHED_CHANNELS", ROW_WEIGHTS=1)


@measures(sparse_tuning, "ROW_WEIGHTS", "kept weights of a row", "ms")
def row_weights() -> Rows:
    """Convolution of 512 channels at density 0.02, forward and backward."""
    return pattern_times((1, 4, 8, 16, 32, 64, 128), 0.02, "ROW_WEIGHTS")


@measures(data_tuning, "COUNTED_IMAGES", "images", "s", "MiB of a part as int64")
def counted_images() -> Rows:
    """Means and deviations of 16,384 colour images of 32x32 pixels by counts."""
    pixels = random_images(16384).pixels
    actions = {
        count: under(data_tuning, lambda: lambda: _mean_and_std(pixels), COUNTED_IMAGES=count)
        for count in (64, 512, 4096, 16384)
    }
    for count, took in fastest(actions).items():
        yield count, f"{took:.3f}", count * 1024 * 8 // 2**20


@measures(data_tuning, "MOST_LOADERS", "loader processes", "images per second")
def most_loaders() -> Rows:
    """Reading of 512 JPEG files of 256x256 pixels in batches of 32, the start of the processes included."""
    from PIL import Image

    with TemporaryDirectory() as name:
        (folder := Path(name) / "class").mkdir()
        for index, pixels in enumerate(random_images(512, 256).pixels):
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{index}.jpg")
        images = stream.read_folders(Path(name), ["class"], 224)
        actions = {
            count: under(stream, lambda: lambda: list(images.in_order(32)), _loaders=lambda batches, n=count: n)
            for count in (0, 1, 2, 4)
        }
        for count, took in fastest(actions, 2, perf_counter).items():
            yield count, f"{512 / took:.0f}"


@measures(training_tuning, "EVALUATION_BATCH", "images", "images per second")
def evaluation_batch() -> Rows:
    """Evaluation of ResNet-20 on 1,024 images."""
    model, data = build("resnet20", 3, 10, seed=0), run_data(random_images(1024))
    model.to(memory_format=torch.channels_last)
    actions = {
        batch: under(training_tuning, lambda: lambda: evaluate(model, data, data.test), EVALUATION_BATCH=batch)
        for batch in (32, 128, 512, 1024)
    }
    for batch, took in fastest(actions, 3).items():
        yield batch, f"{1024 / took:.0f}"


@measures(running_tuning, "KEPT_BYTES", "MiB", "ms per step", "peak GiB")
def kept_bytes() -> Rows:
    """Training step of ResNet-8 in batches of 512 (activations of 32 MiB), each bound in a process of its own."""
    for value in (1, 24, 96, 1024):
        command = [sys.executable, __file__, "--keep", str(value * 2**20)]
        took, peak = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        yield value, took, peak


def print_kept(largest: int) -> None:
    """Print the milliseconds of a training step and the peak memory of this process, for `kept_bytes`."""
    with tuned(running_tuning, KEPT_BYTES=largest):
        keep_freed_memory()
    took = fastest({"step": training_step("resnet8", 512, 1.0)})["step"]
    # not ru_maxrss, which a process inherits from its parent
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(f"{took * 1e3:.0f} {int(peak.split()[1]) / 2**20:.2f}")


def check_claims(count: int) -> float:
    """Return the seconds of a check of `count` claims on a simulated slow file system."""
    with TemporaryDirectory() as name:
        others = [Claims(Path(name)) for _ in range(count)]
        for index, claims in enumerate(others):
            claims.take(f"{index:016x}")
        checker = Claims(Path(name))
        with slow_files(SLOW_FILE_SECONDS):
            took = fastest({"": lambda: [checker.busy(f"{index:016x}") for index in range(count)]}, 1, perf_counter)[""]
        for claims in (checker, *others):
            claims.close()
    return took


@measures(running_tuning, "CLAIMS_PER_CHECK", "claims", "s per check")
def claims_per_check() -> Rows:
    """One check of the claims of other processes, with 20 ms per file operation."""
    for count in (5, 10, 20, 40, 80):
        yield count, f"{check_claims(count):.2f}"


@measures(running_tuning, "CHECK_SECONDS", "s between checks", "share of the pool's time")
def check_seconds() -> Rows:
    """The time of checks of `CLAIMS_PER_CHECK` claims, with 20 ms per file operation."""
    took = check_claims(running_tuning.CLAIMS_PER_CHECK)
    for pause in (0.5, 1.0, 2.0, 5.0, 10.0):
        yield pause, f"{took / (took + pause):.2f}"


def fisher(model: str, samples: int, side: int = 32, size: int = 1) -> Callable[[], object]:
    """Return an action: sums and squares of the gradients of groups of `size` samples."""
    network = build(model, 3, 10, seed=0).eval()
    weights = prunable(network)
    x, y = torch.randn(samples, 3, side, side), torch.randint(10, (samples,))

    def act() -> None:
        with preserved(network):
            group_sums(network, weights, [(x, y)], size, lambda logits, y: F.cross_entropy(logits, y, reduction="sum"))

    return act


@measures(pruning_tuning, "SAMPLES_AT_ONCE", "samples at once", "ms of 128 samples, ResNet-20", "ResNet-18")
def samples_at_once() -> Rows:
    """Gradient and per-sample Fisher diagonal of 32x32 images; 32 samples for ResNet-18."""
    for value in (8, 16, 32, 64, 128):
        took = [
            fastest({"": under(pruning_tuning, lambda m=model, n=n: fisher(m, n), SAMPLES_AT_ONCE=value)}, 2)[""]  # type: ignore[misc]
            for model, n in (("resnet20", 128), ("resnet18", 32))
        ]
        yield value, *(f"{seconds * 1e3:.0f}" for seconds in took)


@measures(pruning_tuning, "SAMPLES_AT_ONCE_CUDA", "samples at once", "ms of 1024 samples, ResNet-18")
def samples_at_once_cuda() -> Rows:
    """Gradient and per-sample Fisher diagonal on a GPU; not measured without one."""
    if not torch.cuda.is_available():
        yield pruning_tuning.SAMPLES_AT_ONCE_CUDA, "no GPU"
        return
    network = build("resnet18", 3, 10, seed=0).eval().cuda()
    data = [(torch.randn(1024, 3, 32, 32).cuda(), torch.randint(10, (1024,)).cuda())]

    def act() -> None:
        with preserved(network):
            compute(Task(network, prunable(network), data, Scoring(), 0), ["gradient", "fisher_diagonal"])

    for value in (64, 128, 256, 512):
        took = fastest({"": under(pruning_tuning, lambda: act, SAMPLES_AT_ONCE_CUDA=value)}, 3, perf_counter)[""]
        yield value, f"{took * 1e3:.0f}"


@measures(pruning_tuning, "BATCHED_WEIGHTS", "weights", "ms of 64 samples, ResNet-8", "ResNet-20")
def batched_weights() -> Rows:
    """Gradient and per-sample Fisher diagonal; layers have up to 36,864 weights."""
    for value in (0, 3_000, 10_000, 20_000, 40_000):
        took = [
            fastest({"": under(pruning_tuning, lambda m=model: fisher(m, 64), BATCHED_WEIGHTS=value)}, 3)[""]  # type: ignore[misc]
            for model in ("resnet8", "resnet20")
        ]
        yield value, *(f"{seconds * 1e3:.0f}" for seconds in took)


@measures(pruning_tuning, "GROUP_POSITIONS", "positions", "ms of 16 samples, ResNet-18")
def group_positions() -> Rows:
    """Gradient and per-sample Fisher diagonal; the compiled kernel takes at most 256 positions."""
    for value in (0, 16, 64, 256):
        took = fastest({"": under(pruning_tuning, lambda: fisher("resnet18", 16), GROUP_POSITIONS=value)}, 2)[""]
        yield value, f"{took * 1e3:.0f}"


@measures(pruning_tuning, "GROUP_ELEMENTS", "elements", "ms of 64 samples, ResNet-20")
def group_elements() -> Rows:
    """Gradient and per-sample Fisher diagonal; an element takes 4 bytes."""
    for exponent in (18, 20, 22, 24, 26):
        took = fastest({"": under(pruning_tuning, lambda: fisher("resnet20", 64), GROUP_ELEMENTS=2**exponent)}, 3)[""]
        yield 2**exponent, f"{took * 1e3:.0f}"


@measures(pruning_tuning, "WALKS_AT_ONCE", "walks", "s of PHEW on ResNet-20")
def walks_at_once() -> Rows:
    """The order of all random walks."""
    network = build("resnet20", 3, 10, seed=0)
    task = Task(network, prunable(network), [(torch.zeros(1, 3, 32, 32), torch.zeros(1).long())], Scoring(), 0)

    def act() -> None:
        with preserved(network):
            compute(task, ["path_walks"])

    for value in (256, 1024, 4096, 16_384):
        took = fastest({"": under(pruning_tuning, lambda: act, WALKS_AT_ONCE=value)}, 1)[""]
        yield value, f"{took:.2f}"


def print_table(name: str) -> None:
    """Measure one constant and print its table."""
    module, columns, function = MEASURES[name]
    value = getattr(module, name)
    path = module.__name__.replace(".", "/") + ".py"
    print(f"## {name} = {value:,}\n\n`{path}`. {inspect.getdoc(function)}\n")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for candidate, *figures in function():
        shown = f"{candidate:,}" if isinstance(candidate, int | float) else str(candidate)
        used = candidate * (2**20 if name == "KEPT_BYTES" else 1) == value  # type: ignore[operator]
        print(f"| {' | '.join([f'**{shown}**' if used else shown, *map(str, figures)])} |", flush=True)
    print(flush=True)


def main() -> int:
    """Measure the constants that the arguments name, by default all."""
    if sys.argv[1:2] == ["--keep"]:
        torch.set_num_threads(1)
        print_kept(int(sys.argv[2]))
        return 0
    wanted = sys.argv[1:] or list(MEASURES)
    if odd := set(wanted) - set(MEASURES):
        print(f"unknown constant {', '.join(sorted(odd))} (valid: {', '.join(MEASURES)})", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    warnings.filterwarnings("ignore", "This DataLoader will create")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    print(f"{datetime.date.today()}, commit {code_state()['commit']}, {processor}")
    print(f"({torch.backends.cpu.get_cpu_capability()}),")
    print(f"{len(os.sched_getaffinity(0))} cores, PyTorch {torch.__version__}, one thread.\n")
    for name in wanted:
        print_table(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
