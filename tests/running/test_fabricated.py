"""Tests that the default audit finds studies with invented results."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from fabricated_studies import STUDIES, UNSEEN, Study, audited, honest, run_of

from pbt_bench.running.audit import _stratified
from pbt_bench.running.consistency import copies
from pbt_bench.running.record import RunRecord
from pbt_bench.spec import RunSpec

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made() -> Study:
    return honest()


def test_an_honest_study_is_verified(made: Study, tmp_path: Path) -> None:
    found = audited(made, tmp_path)
    assert not found.faults, found.text()
    assert not found.absent
    assert f"note: --seed {found.seed} draws the same sample" in found.text()


@pytest.mark.parametrize(("fabricate", "text"), STUDIES.values(), ids=STUDIES)
def test_a_study_with_invented_results_is_found(
    made: Study, tmp_path: Path, fabricate: Callable[[Study], Study], text: str
) -> None:
    found = audited(fabricate(made), tmp_path)
    assert found.faults or found.absent
    assert text in found.text()


def test_masks_that_differ_where_no_image_reaches_may_share_a_curve(made: Study) -> None:
    first, second = (run_of(made, method, 0.9, 0).record for method in ("snip", "magnitude"))
    assert first.pruning
    assert second.pruning
    assert first.pruning.mask_digest != second.pruning.mask_digest
    copy = msgspec.structs.replace(second, curve=first.curve)
    assert [said.split(",")[0] for _, said in copies([first, copy])] == [
        f"it has the curve of {each.run_id}" for each in (copy, first)
    ]
    pruning = msgspec.structs.replace(second.pruning, mask_metrics=first.pruning.mask_metrics)
    assert not copies([first, msgspec.structs.replace(copy, pruning=pruning)])


@pytest.mark.parametrize("name", UNSEEN)
def test_what_only_repeated_training_finds_is_documented(made: Study, tmp_path: Path, name: str) -> None:
    study = UNSEEN[name](made)
    assert not audited(study, tmp_path / "masks").faults
    assert "recomputed, its metrics.test_accuracy is" in audited(study, tmp_path / "training", retrain=True).text()
    assert "an edited test accuracy" in " ".join((ROOT / "docs/audit.md").read_text().split())


def test_a_sample_has_every_method_sparsity_and_model_equally_often() -> None:
    base = RunSpec(dataset="digits", model="vgg8", method="snip", sparsity=0.9, seed=0)
    specs = [
        msgspec.structs.replace(base, method=method, sparsity=sparsity, model=model, seed=seed)
        for seed in range(20) for method in ("snip", "fts", "grasp", "random") for sparsity in (0.9, 0.98)
        for model in ("vgg8", "resnet8")
        if seed < (1 if method == "fts" else 20)
    ]  # fmt: skip
    records = [RunRecord.new(spec, "done") for spec in specs]
    samples = [[each.spec for each in _stratified(records, 8, random.Random(seed))] for seed in range(20)]
    for sample in samples:
        assert Counter(spec.method for spec in sample) == dict.fromkeys(("snip", "fts", "grasp", "random"), 2)
        assert Counter(spec.sparsity for spec in sample) == {0.9: 4, 0.98: 4}
        assert min(Counter(spec.model for spec in sample).values()) >= 3
    assert len({tuple(spec.run_id for spec in sample) for sample in samples}) > 10
    assert samples[3] == [each.spec for each in _stratified(records[::-1], 8, random.Random(3))]
