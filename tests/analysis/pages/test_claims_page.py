"""Tests of the page of claims, of its Markdown, and of the verb."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pbt_bench.analysis.claims.claim_file import load_claims
from pbt_bench.analysis.pages.claims import claims_markdown, judge_claims
from pbt_bench.analysis.records.published import load_published
from pbt_bench.cli import main
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import Grid

ROOT = Path(__file__).parents[3]
AXES = (
    'name = "demo"\ndense = false\n[grid]\ndataset = ["digits"]\nmodel = ["vgg8"]\nmethod = ["fts", "snip"]\n'
    "sparsity = [0.9]\nseed = [0, 1, 2, 3, 4, 5]\n"
)
CLAIM = """
statement = "FTS beats <SNIP> | here."
source = "Doe 2020, arXiv:2001.00001v2, Table 1"
study = "demo"
scale = "Only made-up numbers."
[[test]]
compare = ["fts", "snip"]
expect = "greater"
"""


@pytest.fixture
def demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid: Callable[..., Grid], record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> Path:  # fmt: skip
    """Return a folder with a claim that its study supports, and a claim whose study has no grid file."""
    monkeypatch.chdir(tmp_path)
    for folder in ("grids", "claims", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "grids/demo.toml").write_text(AXES, encoding="utf-8")
    (tmp_path / "claims/beats.toml").write_text(CLAIM, encoding="utf-8")
    (tmp_path / "claims/other.toml").write_text(CLAIM.replace('study = "demo"', 'study = "gone"'), encoding="utf-8")
    study = grid(model=("vgg8",), method=("fts", "snip"), sparsity=(0.9,), seed=tuple(range(6))).runs()
    runs = [run for run in study if run.method != "dense"]
    accuracy = {"fts": 0.9, "snip": 0.88}
    stored(tmp_path / "results/demo", [record(r, accuracy=accuracy[r.method] + r.seed**2 / 5e3) for r in runs])
    return tmp_path


def test_the_page_has_every_claim_with_its_numbers(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--out", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("beats: Supported with 6 seeds.")
    assert lines[1].startswith("other: Missing: 1 of 1 test has fewer than 3 common seeds with a value. No grid file")
    assert lines[2:] == ["2 claims: 1 supported, 1 missing", "claims: out/index.html"]
    page = (demo / "out/index.html").read_text(encoding="utf-8")
    assert "FTS beats &lt;SNIP&gt; | here." in page
    assert "+2.00 points on every seed" in page
    assert 'href="https://arxiv.org/abs/2001.00001v2"' in page
    assert page.count("data:image/svg+xml;base64,") == 1
    text = (demo / "out/claims.md").read_text(encoding="utf-8")
    assert "| [FTS beats <SNIP> \\| here.](#beats) | supported | 1 supported | +2.00 points on every seed |" in text
    assert "Tested on: digits / vgg8 (6 seeds)." in text
    assert "Navarrete et al. 2025" in text  # what the paper prints on the same two methods
    again = [(demo / "out" / name).read_bytes() for name in ("index.html", "claims.md")]
    assert main(["claims", "--out", "out"]) == 0
    assert [(demo / "out" / name).read_bytes() for name in ("index.html", "claims.md")] == again


def test_small_versions_are_named_and_limited_to_digits(demo: Path) -> None:
    found = judge_claims(load_claims(ROOT / "claims"), ROOT / "grids", demo / "results", mini=True)
    for finding in found:
        assert all(name.endswith("_mini") for name in finding.claim.studies)
        assert finding.claim.scale.startswith("On digits")


def test_json_and_names(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "beats", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["name"], found["verdict"], found["missing_runs"], found["needed_runs"]) == (
        "beats",
        "supported",
        0,
        12,
    )
    (test,) = found["tests"]
    assert (test["of"], test["expect"], test["margin"], test["n"]) == (["fts", "snip"], "greater", 0.0, 6)
    assert test["estimate"] == pytest.approx(0.02)
    assert test["interval"] == [None, None]
    assert test["p_holm"] == test["p"] == 2 / 2**6
    assert main(["claims", "beat"]) == 2
    assert "unknown claim 'beat'; did you mean 'beats'?" in capsys.readouterr().err
    assert main(["list", "claims"]) == 0
    assert capsys.readouterr().out.startswith("beats  FTS beats <SNIP> | here.  [Doe 2020")


def test_the_page_of_the_documentation_is_what_the_records_give(tmp_path: Path) -> None:
    claims = load_claims(ROOT / "claims")
    packs = [
        pack
        for claim in claims
        for name in claim.studies
        if (pack := ROOT / f"results/reference/{name}.pack").is_file()
    ]
    (tmp_path / "reference").mkdir()
    for pack in set(packs):
        (tmp_path / "reference" / pack.name).symlink_to(pack)
    written = (ROOT / "docs/claims.md").read_text(encoding="utf-8")
    for claim in claims:
        assert f"## {claim.name}\n\n{claim.statement}\n" in written
    if packs:  # reference studies: without them every claim is missing
        findings = judge_claims(claims, ROOT / "grids", tmp_path)
        assert claims_markdown(findings, load_published(ROOT / "results/published")) == written
