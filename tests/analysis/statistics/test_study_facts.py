"""Facts about test sets and methods come from the records and the registries, and are left out where they disagree."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.statistics import study_facts
from pbt_bench.data import datasets
from pbt_bench.running.record import RunRecord
from pbt_bench.spec import RunSpec


@pytest.mark.parametrize(("correct", "stated"), [(405, True), (405.5, False)])
def test_an_image_has_a_worth_if_the_accuracies_are_of_that_many(
    record: Callable[..., RunRecord], correct: float, stated: bool
) -> None:
    spec = RunSpec(dataset="digits", model="vgg8", method="snip", sparsity=0.9, seed=0)
    said = study_facts.image_worth_sentences(frame([record(spec, accuracy=correct / 450)]))
    assert said == ["digits has 450 test images: one image is 0.22 percentage points of accuracy."] * stated


def test_the_declared_test_set_of_digits_is_that_of_the_data(tmp_path_factory: pytest.TempPathFactory) -> None:
    source = datasets()["digits"]
    assert source.test_images == len(source.load(tmp_path_factory.mktemp("data")).test.targets)


def test_a_method_has_its_source_once_and_an_unknown_one_has_none() -> None:
    known, unknown = study_facts.method_sources(["x<y>", "fts", "fts (alpha 0.3)"])
    assert (known.name, known.arxiv, known.file, known.page) == ("fts", "2502.11450", "methods/fts.py", "")
    assert (unknown.name, unknown.cite, unknown.file) == ("x<y>", "", "")


def test_methods_link_to_the_documentation_if_it_has_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_facts, "_documentation", lambda: "https://docs.example.org")
    (entry,) = study_facts.method_sources(["snip"])
    assert entry.page == "https://docs.example.org/methods/snip.html"
