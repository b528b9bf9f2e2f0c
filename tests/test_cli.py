"""End-to-end tests of the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = """
name = "tiny"
[grid]
dataset = ["digits"]
model = ["vgg8"]
method = ["random", "magnitude", "snip", "grasp", "synflow", "fts"]
sparsity = [0.9, 0.98]
seed = [0]
[recipe]
epochs = 1
batch_size = 128
validation_fraction = 0.15
[scoring]
samples_per_class = 5
batchnorm = "calibrated"
rounds = 5
"""


def call(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pbt_bench.cli", *words],
        cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


def records(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (folder / "results/tiny/runs").iterdir()}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small finished study that the command line executed with two workers."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.toml").write_text(TINY)
    done = call(folder, "run", "tiny.toml", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "tiny: 13 runs: " in done.stdout
    assert "tiny: 13 of 13 runs to do, 2 workers" in done.stderr, "plain lines when the output is not a terminal"
    assert "\x1b[" not in done.stderr
    return folder


def test_every_run_has_a_record_and_is_never_repeated(study: Path) -> None:
    before = records(study)
    assert len(before) == 13
    again = call(study, "run", "tiny.toml")
    assert again.returncode == 0
    assert records(study) == before


def test_a_report_says_what_is_missing_and_how_long_it_takes(study: Path) -> None:
    said = call(study, "report", "tiny.toml", "--set", "grid.seed=[0, 1]", "--out", "partial").stdout.splitlines()
    assert said[0] == "report: partial/index.html"
    assert said[1].startswith("runs are missing, the page lists them. They take one worker about ")
    assert said[1].endswith(", judged by the 13 runs measured so far.")


def test_report_show_status(study: Path) -> None:
    assert call(study, "report", "tiny.toml").stdout == "report: results/tiny/report/index.html\n"
    report = study / "results/tiny/report"
    assert (report / "index.html").stat().st_size > 50_000
    assert {"accuracy-digits.png", "accuracy-digits.svg", "collapse-digits-vgg8.png"} <= set(
        os.listdir(report / "figures")
    )
    assert {"digits-vgg8.csv", "digits-vgg8.md", "digits-vgg8.tex"} <= set(os.listdir(report / "tables"))
    run_id = next(iter(records(study)))
    shown = json.loads(call(study, "show", run_id[:10]).stdout)
    assert shown["run_id"] == run_id
    state = json.loads(call(study, "status", "tiny.toml", "--json").stdout)
    assert state["total"] == 13
    assert state["done"] + state["collapsed"] == 13
    assert state["missing"] == state["failed"] == 0


def test_one_worker_gives_the_same_results_as_two(study: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    assert call(tmp_path, "run", "tiny.toml", "--workers", "1", "--set", "grid.method=fts").returncode == 0

    def result(text: bytes) -> object:
        plain = json.loads(text)
        plain.pop("environment")
        plain["pruning"].pop("scoring_seconds")
        return [plain, [epoch.pop("seconds") and None for epoch in plain["curve"]]]

    two = records(study)
    for run_id, text in records(tmp_path).items():
        assert result(text) == result(two[run_id])


def test_a_corrupt_record_is_named_and_its_run_done_again(study: Path, tmp_path: Path) -> None:
    run_id, text = next((r, t) for r, t in records(study).items() if b'"magnitude"' in t)
    path = study / "results/tiny/runs" / f"{run_id}.json"
    path.write_bytes(text[:100])
    done = call(study, "run", "tiny.toml")
    assert done.returncode == 0
    assert f"{run_id}.json is not a record" in done.stderr
    assert json.loads(path.read_bytes())["metrics"] == json.loads(text)["metrics"]


def test_ctrl_c_keeps_what_is_finished_and_the_next_call_carries_on(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.replace("epochs = 1", "epochs = 6"))
    process = subprocess.Popen(
        [sys.executable, "-m", "pbt_bench.cli", "run", "tiny.toml", "--workers", "2"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in jobs of a shell
    )  # fmt: skip
    runs = tmp_path / "results/tiny/runs"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not runs.is_dir() or not list(runs.glob("*.json"))):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends SIGINT to the whole process group
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; finished runs are kept" in said
    assert "Traceback" not in said
    finished = records(tmp_path)
    assert 1 <= len(finished) < 13
    assert all(json.loads(text)["status"] in ("done", "collapsed") for text in finished.values())
    assert set(os.listdir(runs)) == {f"{run_id}.json" for run_id in finished}
    assert call(tmp_path, "status", "tiny.toml").stdout.count("missing") == 1
    assert call(tmp_path, "run", "tiny.toml").returncode == 0
    assert finished.items() <= records(tmp_path).items()
    assert len(records(tmp_path)) == 13


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs", "epoch", "unknown key 'recipe.epoch'; did you mean 'recipe.epochs'?"),
        ('"fts"', '"ftss"', "unknown method 'ftss'; did you mean 'fts'? (valid: dpai, edge_popup, fbss"),
        ('"vgg8"', '"vgg8x"', "unknown model 'vgg8x'; did you mean 'vgg8'?"),
        ('"digits"', '"digit"', "unknown dataset 'digit'; did you mean 'digits'?"),
        ("0.98", "1.2", "grid: sparsity = 1.2 must be at least 0 and below 1"),
        ("seed = [0]", "seed = []", "seed is empty"),
        ("[grid]", "[grid", "not a TOML file"),
    ],
)
def test_bad_grids_are_one_line_exit_2_and_start_nothing(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.replace(old, new))
    done = call(tmp_path, "run", "tiny.toml")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("pbt-bench: error: tiny.toml: ")
    assert not (tmp_path / "results").exists()


def test_a_missing_dataset_is_one_line_before_any_run_starts(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "lost.py").write_text(
        "from pbt_bench.data import dataset\n\n\n@dataset(cite='none')\ndef lost(folder):\n"
        "    raise FileNotFoundError(f'{folder}/lost.bin is missing')\n"
    )
    (tmp_path / "tiny.toml").write_text(TINY.replace('"digits"', '"lost"'))
    done = call(tmp_path, "run", "tiny.toml", "--data", "here", PBT_BENCH_DATASETS="own")
    assert done.returncode == 2
    assert "here/lost.bin is missing" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list((tmp_path / "results" / "tiny" / "runs").iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nothing.toml"], "nothing.toml: No such file"),
        (["run", "tiny.toml", "--results", "tiny.toml"], "--results tiny.toml: neither a folder nor a packed study"),
        (["run", "tiny.toml", "--device", "cuda:99"], "--device cuda:99: not on this machine"),
        (["run", "tiny.toml", "--workers", "0"], "--workers 0: must be at least 1"),
        (
            ["list", "metods"],
            "unknown list 'metods'; did you mean 'methods'? (valid: claims, datasets, methods, models",
        ),
        (["show", "feed"], "0 records in results/*/runs begin with it"),
    ],
)
def test_bad_requests_are_one_line_and_exit_2(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    done = call(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_lists_are_complete_and_methods_are_listed_without_torch(tmp_path: Path) -> None:
    for what, names in {
        "methods": ("fts", "grasp", "magnitude", "random", "snip", "synflow"),
        "models": ("resnet8", "vgg8"),
        "datasets": ("digits",),
        "scopes": ("global", "layer", "uniform", "uniform_plus", "er", "erk", "igq", "equal", "smart_ratio"),
        "statistics": ("fisher_diagonal", "gradient", "hessian_gradient", "synaptic_flow", "uniform", "weight"),
    }.items():
        lines = call(tmp_path, "list", what).stdout.splitlines()
        assert {line.split()[0] for line in lines} >= set(names)
        assert all("[" in line for line in lines)
    code = "import sys; from pbt_bench.cli import main; main(['list', 'methods']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_a_dying_worker_is_a_failed_run_and_the_grid_goes_on(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(
        TINY.replace('["random", "magnitude", "snip", "grasp", "synflow", "fts"]', '["deadly", "random"]')
    )
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "deadly.py").write_text(
        "import os, signal\nfrom pbt_bench.pruning import pruner\n\n\n@pruner(cite='none')\n"
        "def deadly(weight):\n    os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    done = call(tmp_path, "run", "tiny.toml", "--workers", "1", PBT_BENCH_METHODS="own")
    assert done.returncode == 1
    assert "2 failed" in done.stdout
    assert done.stderr.count("the worker process died: killed by signal 11") == 2
    statuses = sorted(json.loads(text)["status"] for text in records(tmp_path).values())
    assert statuses.count("failed") == 2
    assert len(statuses) == 5
    harmless = (
        (tmp_path / "own" / "deadly.py").read_text().replace("os.kill(os.getpid(), signal.SIGSEGV)", "return weight")
    )
    (tmp_path / "own" / "deadly.py").write_text(harmless)
    assert call(tmp_path, "run", "tiny.toml", PBT_BENCH_METHODS="own").returncode == 0, "edited: other runs"
    assert len(records(tmp_path)) == 7, "the records of the code before the edit are kept"


@pytest.mark.parametrize("seconds", ["nan", "-1", "0", "", "abc", "inf"])
def test_a_wrong_time_of_stale_claims_is_one_line(tmp_path: Path, seconds: str) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    done = call(tmp_path, "status", "tiny.toml", PBT_BENCH_STALE_SECONDS=seconds)
    assert done.returncode == 2
    text = f"PBT_BENCH_STALE_SECONDS = {seconds!r} must be a finite number of seconds above 0"
    assert done.stderr == f"pbt-bench: error: {text}\n"


@pytest.mark.parametrize("setting", ["recipe.learning_rate", "recipe.weight_decay", "scoring.loss_temperature"])
def test_an_infinite_rate_is_one_line(tmp_path: Path, setting: str) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    done = call(tmp_path, "status", "tiny.toml", "--set", f"{setting}=inf")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{setting.split('.')[1]} = inf must be finite" in done.stderr


def test_the_version_is_printed_without_torch() -> None:
    code = (
        "import sys; from pbt_bench.cli import main\ntry: main(['--version'])\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("pbt-bench 0.")
    assert all(word in done.stdout for word in ("commit ", "torch ", "kernels "))


def test_a_failed_run_says_why_and_how_it_is_run_again(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "broken.py").write_text(
        "from pbt_bench.pruning import pruner\n\n\n@pruner(cite='none')\n"
        "def broken(weight):\n    raise ValueError('\\x1b[2J all verified \\u202e')\n"
    )
    (tmp_path / "tiny.toml").write_text(
        TINY.replace('["random", "magnitude", "snip", "grasp", "synflow", "fts"]', '["broken"]')
    )
    words = ("tiny.toml", "--set", "grid.sparsity=0.9", "--set", "dense=false", "--set", "recipe.epochs=0")
    first = call(tmp_path, "run", *words, "--workers", "1", PBT_BENCH_METHODS="own")
    assert first.returncode == 1
    again = call(tmp_path, "run", *words, PBT_BENCH_METHODS="own")
    assert again.returncode == 1
    (run_id,) = records(tmp_path)
    assert again.stderr == (
        f"failed: digits vgg8 broken 0.9 seed 0 ({run_id}): ValueError: ?[2J all verified ?\n"
        "1 failed (--retry-failed runs them again)\n"
    )
    for verb in (("status", *words), ("status", *words, "--json"), ("show", run_id)):
        done = call(tmp_path, *verb)  # the method's file is gone
        assert all(character.isprintable() or character == "\n" for character in done.stdout), verb
        assert "all verified" in done.stdout


def test_a_file_that_is_edited_while_its_study_runs_is_noticed_by_the_worker(tmp_path: Path) -> None:
    """The method is edited between the check of the grid and the start of the worker, by the method's file itself."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "moving.py").write_text(
        "import pathlib\nfrom pbt_bench.pruning import pruner\n\n\n@pruner(cite='none')\n"
        "def moving(weight):\n    return 1 * weight.abs()\n\n\n"
        "path = pathlib.Path(__file__)\npath.write_text(path.read_text().replace('1 *', '2 *', 1))\n"
    )
    (tmp_path / "tiny.toml").write_text(
        TINY.replace('["random", "magnitude", "snip", "grasp", "synflow", "fts"]', '["moving"]')
    )
    words = ("tiny.toml", "--set", "grid.sparsity=0.9", "--set", "dense=false", "--set", "recipe.epochs=0")
    first = call(tmp_path, "run", *words, "--workers", "1", PBT_BENCH_METHODS="own")
    assert first.returncode == 1
    assert "method moving is at revision " in first.stderr
    assert ": the file was edited while the study runs" in first.stderr
    again = call(tmp_path, "run", *words, "--workers", "1", PBT_BENCH_METHODS="own")
    assert again.returncode == 0, again.stderr
