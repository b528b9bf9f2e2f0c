"""Check that the tests detect known defects: insert each into a copy of the code and print the test that fails.

python benchmarks/mutants.py             every defect, each against its test modules (about five minutes)
python benchmarks/mutants.py NAME ...    only these; NAME selects every defect whose name begins with it

The exit status is 1 if the tests pass with a defect. Not part of `make test`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "results", "build", "__pycache__", "*.egg-info")
LOOP = "training/test_loop.py training/test_steps.py"
STORE = "running/test_store.py"
IMAGES, EXECUTE = "data/test_images.py", "running/test_execute.py"


@dataclass(frozen=True)
class Defect:
    """A replacement of one piece of text, which must occur exactly once in its file."""

    name: str
    file: str  # below pbt_bench/
    text: str
    replacement: str
    tests: str  # below tests/, separated by spaces


DEFECTS = (
    Defect("nesterov-ignored", "training/optimizer.py", "nesterov=recipe.nesterov", "nesterov=False", LOOP),
    Defect(
        "weight-decay-ignored",
        "training/optimizer.py",
        "weight_decay=recipe.weight_decay",
        "weight_decay=0.0",
        LOOP,
    ),
    Defect(
        "label-smoothing-ignored",
        "training/stepper.py",
        "label_smoothing=recipe.label_smoothing",
        "label_smoothing=0.0",
        LOOP,
    ),
    Defect("same-order-in-every-epoch", "training/stepper.py", '"order", number', '"order", 1', LOOP),
    Defect(
        "same-augmentation-in-every-epoch", "training/stepper.py", '"augmentation", number', '"augmentation", 1', LOOP
    ),
    Defect("same-dropout-in-every-epoch", "training/stepper.py", '"dropout", number', '"dropout", 1', LOOP),
    Defect(
        "best-epoch-is-the-last-of-equals",
        "training/loop.py",
        "held.accuracy > best[0]",
        "held.accuracy >= best[0]",
        LOOP,
    ),
    Defect("every-image-flipped", "data/image_tensors.py", "pixels.device) < 0.5", "pixels.device) < 1.5", IMAGES),
    Defect("same-crop-for-rows-and-columns", "data/image_tensors.py", "(left, width)", "(top, width)", IMAGES),
    Defect(
        "seed-of-scores-constant", "running/group.py", 'derive(spec.seed, "scores")', 'derive(0, "scores")', EXECUTE
    ),
    Defect("seed-of-shuffle-constant", "running/group.py", 'stream(seed, "shuffle")', 'stream(0, "shuffle")', EXECUTE),
    Defect(
        "scores-on-test-images",
        "running/group.py",
        "data.train, scoring.samples_per_class",
        "data.test, scoring.samples_per_class",
        EXECUTE,
    ),
    Defect(
        "collapsed-with-one-empty-layer",
        "running/group.py",
        "pruning, diagnosis.connected, begin)",
        "pruning, not diagnosis.collapsed_layers, begin)",
        EXECUTE,
    ),
    Defect(
        "weights-digest-of-the-best-epoch",
        "running/execute.py",
        "weights_digest=weights",
        "weights_digest=digest({name: t.cpu().contiguous().numpy() for name, t in model.state_dict().items()})",
        EXECUTE,
    ),
    Defect(
        "almost-zero-counts-as-zero",
        "pruning/diagnosis.py",
        "torch.count_nonzero(parameters[n][~masks[n]])",
        "(parameters[n][~masks[n]].abs() > 1e-6).sum()",
        "pruning/test_diagnosis.py",
    ),
    Defect(
        "calibrated-by-one-batch",
        "pruning/batchnorm.py",
        "for inputs, _ in batches:",
        "for inputs, _ in batches[:1]:",
        "pruning/test_statistics.py",
    ),
    Defect(
        "scores-in-tf32",
        "models/model_state.py",
        "with full_float32(), torch.random",
        "with torch.random",
        "models/test_full_float32.py",
    ),
    Defect(
        "verdicts-of-means-of-opposites",
        "analysis/claims/verdicts.py",
        "self._significant and not self.networks_disagree",
        "self._significant",
        "analysis/claims/test_verdicts.py",
    ),
    Defect("records-written-in-place", "running/store.py", "part = path.with_name(", "part = path or (", STORE),
    Defect(
        "no-second-look-after-claiming",
        "running/worker.py",
        "if not (record := store.finished(run_id, job.retry_failed)):\n                    try:",
        "if True:\n                    try:",
        "running/test_worker.py",
    ),
    Defect("no-claim-check-before-writing", "running/worker.py", "claims.check()", "pass", "running/test_worker.py"),
    Defect(
        "claims-released-newest-first",
        "running/claims.py",
        "for generation in range(1, held[1] + 1):",
        "for generation in range(held[1], 0, -1):",
        "running/test_claims.py",
    ),
    Defect(
        "run-ids-of-8-digits",
        "identity.py",
        "json(spec)).hexdigest()[:16]",
        "json(spec)).hexdigest()[:8]",
        "test_spec.py",
    ),
)


def failing_test(defect: Defect, tree: Path) -> str | None:
    """Return the first test that fails with `defect` in `tree`, or None if all pass. `tree` is restored."""
    path = tree / "pbt_bench" / defect.file
    code = path.read_text(encoding="utf-8")
    if code.count(defect.text) != 1:
        raise SystemExit(
            f"{defect.name}: {defect.text!r} occurs {code.count(defect.text)} times in {defect.file}, not once"
        )
    path.write_text(code.replace(defect.text, defect.replacement), encoding="utf-8")
    try:
        tests = [f"tests/{name}" for name in defect.tests.split()]
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests]
        environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    finally:
        path.write_text(code, encoding="utf-8")
    if done.returncode not in (0, 1):
        raise SystemExit(f"{defect.name}: pytest did not run\n{done.stdout}{done.stderr}")
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return found[1] if found else None


def main(names: list[str]) -> int:
    """Print the failing test of every selected defect and return the exit status."""
    chosen = [defect for defect in DEFECTS if not names or defect.name.startswith(tuple(names))]
    if not chosen:
        raise SystemExit(f"no defect is named {', '.join(names)} (valid: {', '.join(d.name for d in DEFECTS)})")
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        for defect in chosen:
            test = failing_test(defect, tree)
            survived += test is None
            print(f"{defect.name:34}{test or 'NOT SEEN'}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} defects are seen")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
