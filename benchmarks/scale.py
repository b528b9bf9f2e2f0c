"""Measure planning, submission and status of 100,000 runs, claims of 1,000 workers, and the overhead of one worker.

Shell scripts simulate Slurm; a pause in every file operation simulates a slow file system. The figures are merged into
results/speed.json. `python benchmarks/scale.py [FIGURE...]`; `--runs N` and `--workers N` reduce the size.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import generated_records

from pbt_bench.running.claims import Claims
from pbt_bench.running.slurm.submissions import submissions
from pbt_bench.running.store import Store

Figures = dict[str, float]
LATENCY = 0.02  # seconds per file operation
RUN_SECONDS = 15.0  # of a simulated run
RUNS_PER_WORKER = 3
COMMANDS = {
    "sbatch": 'n=$(cat "$0.n" 2>/dev/null || echo 1000); echo $((n + 1)) >"$0.n"; echo "Submitted batch job $n"',
    "scontrol": "echo 'MaxArraySize = 1001'",
    "squeue": 'cat "$0.out" 2>/dev/null || true',
    "sacct": "true",
    "srun": "true",
}


@contextmanager
def study(runs: int) -> Iterator[Path]:
    """Make a temporary folder with a `grid.toml` of at least `runs` runs and simulated Slurm commands in `bin`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        axes = generated_records.grid("scale", runs).grid
        lists = "\n".join(
            f"{key} = {json.dumps(getattr(axes, key))}" for key in ("dataset", "model", "method", "sparsity", "seed")
        )
        (folder / "grid.toml").write_text(f'name = "scale"\n[grid]\n{lists}\n')
        (folder / "here.toml").write_text('partition = "gpu"\ngpus = 1\nruns_per_job = 8\narray_parallelism = 500\n')
        (folder / "bin").mkdir()
        for command, script in COMMANDS.items():
            path = folder / "bin" / command
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        yield folder


def measured(folder: Path, *words: str) -> tuple[float, float, str]:
    """Run `pbt-bench WORDS` as a process; return its seconds, its peak GiB and its output."""
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    start = time.perf_counter()
    with (folder / "said").open("w+") as said:
        line = [sys.executable, "-m", "pbt_bench.cli", *words]
        process = subprocess.Popen(line, cwd=folder, env=environment, stdout=said)
        _, code, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
        seconds = time.perf_counter() - start
        said.seek(0)
        text = said.read()
    if process.returncode not in (0, 1):
        raise SystemExit(f"{words}: exit code {process.returncode}")
    return seconds, usage.ru_maxrss / 2**20, text


def submit(options: argparse.Namespace) -> Figures:
    """Measure submission, a second submission with all runs in the queue, and status with half of them done."""
    with study(options.runs) as folder:
        seconds, gib, said = measured(folder, "submit", "grid.toml", "--cluster", "here.toml")
        print(f"submit: {said.splitlines()[0]}")
        store = Store(folder / "results/scale")
        (made,) = submissions(store.folder)
        entries = [
            f"{made.jobs[array]}_{element}|{element}|PENDING||Priority|{made.job_name(array)}"
            for array, content in enumerate(made.elements)
            for element in range(len(content))
        ]
        (folder / "bin/squeue.out").write_text("\n".join(entries) + "\n")
        again, _, said = measured(folder, "submit", "grid.toml", "--cluster", "here.toml")
        print(f"submit again: {said.strip()}")
        specs = generated_records.grid("scale", options.runs).runs()
        generated_records.write(specs[: len(specs) // 2], store.folder)
        look, _, said = measured(folder, "status", "grid.toml")
        print(f"status: {said.splitlines()[0]}")
    return {
        "submit_100k_seconds": seconds,
        "submit_100k_gib": gib,
        "submit_100k_again_seconds": again,
        "status_100k_seconds": look,
    }


@contextmanager
def slow_files(seconds: float) -> Iterator[None]:
    """Delay every open (twice for writing), stat, mkdir, rename, remove, utime and listdir of a file by `seconds`."""
    kept = [
        (os, name, getattr(os, name)) for name in ("stat", "fstat", "mkdir", "unlink", "utime", "replace", "listdir")
    ]
    kept.append((io, "open", io.open))

    def slowed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            writes = function is kept[-1][2] and any(letter in str(arguments[1:]) for letter in "wx")
            time.sleep(seconds * (1 + writes))
            return function(*arguments, **options)

        return call

    for module, name, function in kept:
        setattr(module, name, slowed(function))
    try:
        yield
    finally:
        for module, name, function in kept:
            setattr(module, name, function)


def claim(options: argparse.Namespace) -> Figures:
    """Measure the share of time that workers spend on claims in one folder; one in ten repeats another's runs."""
    spent, worked = [], []

    def worker(folder: Path, runs: list[str]) -> None:
        store, claims = Store(folder), Claims(folder)
        begin, busy = time.perf_counter(), 0.0
        for run in runs:  # the steps of running/worker.py around a run
            if not store.path(run).exists() and claims.take(run):
                if not store.path(run).exists():
                    start = time.perf_counter()
                    time.sleep(RUN_SECONDS)
                    busy += time.perf_counter() - start
                    claims.check()
                claims.release()
        total = time.perf_counter() - begin
        if busy:
            spent.append(total - busy)
            worked.append(busy)
        claims.close()

    with tempfile.TemporaryDirectory() as name, slow_files(LATENCY):
        lists = [[f"{worker:08x}{run:08x}" for run in range(RUNS_PER_WORKER)] for worker in range(options.workers)]
        lists += lists[::10]
        threads = [threading.Thread(target=worker, args=(Path(name), runs)) for runs in lists]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    share = sum(spent) / (sum(spent) + sum(worked))
    each = sum(spent) / len(spent) / RUNS_PER_WORKER
    how = f"{RUN_SECONDS:.0f} s at {LATENCY * 1e3:.0f} ms per operation"
    print(f"claims: {len(lists)} workers, {each:.3f} s per run of {how}")
    return {"claims_share_1000_workers": share, "claims_seconds_per_run_at_20ms": each}


def overhead(options: argparse.Namespace) -> Figures:
    """Measure the share of a started worker's time on the digits grid that is not scoring, training or evaluation.

    Interruptions of a training for its log, checkpoints and progress count as overhead.
    """
    import torch

    from pbt_bench.grid_file import load_grid
    from pbt_bench.running import execute, group
    from pbt_bench.running.checkpoint import Checkpoint
    from pbt_bench.running.log import RunLog
    from pbt_bench.running.messages import Advanced, Assignment
    from pbt_bench.running.plan import check_names
    from pbt_bench.running.worker import keep_freed_memory, work

    keep_freed_memory()
    torch.set_num_threads(1)
    inside = 0.0
    work_now = [False]  # of the nested calls, innermost last: True for scoring, training and evaluation
    since = 0.0

    def switch(to: bool | None) -> None:
        nonlocal inside, since
        now = time.perf_counter()
        inside += (now - since) * work_now[-1]
        since = now
        work_now.pop() if to is None else work_now.append(to)

    def timed(owner: Any, name: str, is_work: bool) -> None:
        function = getattr(owner, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            switch(is_work)
            try:
                return function(*arguments, **keywords)
            finally:
                switch(None)

        setattr(owner, name, call)

    timed(execute, "train", True)
    timed(execute, "evaluate", True)
    timed(group.Group, "_prune", True)
    timed(RunLog, "append", False)
    timed(Checkpoint, "due", False)
    timed(Checkpoint, "save", False)
    grid = check_names(load_grid(Path(__file__).parents[1] / "grids/digits.toml"), "digits")
    specs = [spec for spec in grid.runs() if spec.model == "resnet8" and spec.seed == 0]

    class Link:
        """Connection that assigns the runs. Timing starts with the second: the first run loads the shared data."""

        left = iter(specs)
        start = 0.0
        sent = 0

        def recv(self) -> Assignment | None:
            nonlocal inside
            self.sent += 1
            if self.sent == 2:
                self.start, inside = time.perf_counter(), 0.0
            spec = next(self.left, None)
            return Assignment(spec.to_json(), False) if spec else None

        def send(self, message: object) -> None:
            assert isinstance(message, Advanced) or getattr(message, "status", "") in ("done", "collapsed"), message

    link = Link()
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name) / "digits")
        store.prepare()
        work(link, store.folder, Path(name), "cpu", 300.0)  # type: ignore[arg-type]
        total = time.perf_counter() - link.start
    print(f"overhead: {total - inside:.2f} of {total:.1f} s for {link.sent - 2} runs of the digits grid")
    return {"overhead_share": (total - inside) / total}


FIGURES: dict[str, Callable[[argparse.Namespace], Figures]] = {"submit": submit, "claims": claim, "overhead": overhead}


def main() -> int:
    """Measure the figures that the arguments name, by default all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(FIGURES)}; default: all")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1_000)
    options = parser.parse_args()
    if odd := set(options.figures) - set(FIGURES):
        parser.error(f"unknown figure {', '.join(sorted(odd))} (valid: {', '.join(FIGURES)})")
    path = Path("results/speed.json")
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in options.figures or FIGURES:
        for key, value in FIGURES[name](options).items():
            found[key] = round(value, 4)
            print(f"  {key:34} {value:9.3f}", flush=True)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
