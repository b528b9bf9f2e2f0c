"""Tests of the verdicts on the project's own studies: other records give other verdicts, and the readme has these."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from pbt_bench.analysis.claims.claim_file import Claim, Question, Selection, load_claims
from pbt_bench.analysis.claims.evidence import Evidence, load_evidence
from pbt_bench.analysis.claims.verdicts import CONTRADICTED, SUPPORTED, VERDICTS, judge

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/claims.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Claim, Evidence]]:
    """Return the claims that need the packed studies of the project, with the records of these alone."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "reference").symlink_to(ROOT / "results/reference")
    packed = {path.stem for path in (ROOT / "results/reference").glob("*.pack")}
    claims = [claim for claim in load_claims(ROOT / "claims") if packed & set(claim.studies)]
    known = {names: load_evidence(names, ROOT / "grids", folder) for names in {claim.studies for claim in claims}}
    return [(claim, known[claim.studies]) for claim in claims]


def _methods(question: Question) -> Sequence[str]:
    """Return the two methods that a question compares; nothing if it compares anything else."""
    sides = question.sides
    if question.expect not in ("greater", "less") or len(sides) != 2:
        return ()
    names = [
        side.conditions.get("method") for side in sides if isinstance(side, Selection) and len(side.conditions) == 1
    ]
    return [name for name in names if isinstance(name, str)] if len(names) == 2 else ()


def test_records_of_two_methods_with_swapped_labels_flip_the_verdict(studies: list[tuple[Claim, Evidence]]) -> None:
    flipped = 0
    for claim, evidence in studies:
        for question in claim.questions:
            names = _methods(question)
            if len(names) != 2 or question.bound:
                continue
            one = msgspec.structs.replace(claim, questions=(question,))
            before = judge([one], [evidence])[0].verdict
            if before not in (SUPPORTED, CONTRADICTED):
                continue
            swap = dict(zip(names, reversed(names), strict=True))
            columns = {name: evidence.table[name].replace(swap) for name in ("method", "base_method")}
            mutant = replace(evidence, table=evidence.table.assign(**columns))
            assert {before, judge([one], [mutant])[0].verdict} == {SUPPORTED, CONTRADICTED}, question.subject
            flipped += 1
    assert flipped > 3


def test_the_readme_says_what_the_page_of_claims_says() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## What was found")[2].partition("\n## ")[0]
    items = [" ".join(item.split()) for item in re.split(r"\n- ", section)[1:]]
    assert len(items) > 3
    for item in items:
        (name,) = re.findall(r"docs/claims\.md#(\w+)", item)
        part = PAGE.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert part, name
        (said,) = re.findall("|".join(VERDICTS), item.lower())
        assert f"**{said.capitalize()}" in part, name
        numbers = re.findall(r"[-+]?\d+\.\d+(?: points)? \[[^]]*\]", item)
        assert numbers, item
        for number in numbers:
            assert number in part, f"{name}: {number}"
