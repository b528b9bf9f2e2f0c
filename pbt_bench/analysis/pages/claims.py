"""The page of claims: verdict, effect sizes, figure and published numbers of each, as HTML and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pbt_bench.analysis.claims import claim_texts as texts
from pbt_bench.analysis.claims.claim_figure import draw_claim
from pbt_bench.analysis.claims.claim_file import Claim
from pbt_bench.analysis.claims.claim_literature import PrintedDifference, printed_differences
from pbt_bench.analysis.claims.evidence import Evidence, load_evidence
from pbt_bench.analysis.claims.verdicts import CONTRADICTED, SUPPORTED, Answer, Finding, judge
from pbt_bench.analysis.figures.style import save
from pbt_bench.analysis.pages.gallery import Picture
from pbt_bench.analysis.pages.rendering import render
from pbt_bench.analysis.pages.report import Anchors
from pbt_bench.analysis.records.published import Published
from pbt_bench.analysis.statistics.effects import Effect
from pbt_bench.analysis.statistics.labels import counted

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5}(?:v\d+)?)")
_MINI_SCALE = "On digits, with small versions of the studies; says nothing on other images."
_HEAD = """# Claims

Statements of papers, and questions that they leave open, each tested on the records of this project's studies. `make
claims` computes this page from the records; no verdict is written by hand. [Statistics of claims](statistics.md#claims)
defines the verdicts. A verdict holds for the networks, data and sparsities of its study.
"""


@dataclass(frozen=True)
class ClaimEntry:
    """A claim on the page."""

    finding: Finding
    printed: Sequence[PrintedDifference]
    picture: Picture | None = None

    @property
    def claim(self) -> Claim:
        """The claim itself."""
        return self.finding.claim

    @property
    def links(self) -> list[tuple[str, str]]:
        """The arXiv papers of the source: their names and addresses."""
        return [(found[0], f"https://arxiv.org/abs/{found[1]}") for found in _ARXIV.finditer(self.claim.source)]

    @property
    def rows(self) -> list[dict[str, str]]:
        """The tests as rows of a table; one of several networks is followed by the effect on each of them."""
        return [
            row
            for answer in self.finding.answers
            for row in (_row(answer), *(_row_of_network(answer, *each) for each in answer.by_network.items()))
        ]


def judge_claims(claims: Sequence[Claim], grids: Path | None, results: Path, mini: bool = False) -> list[Finding]:
    """Test all `claims` on the records of their studies, or of the small versions of these."""
    if mini:
        claims = [msgspec.structs.replace(claim, studies=claim.mini, scale=_MINI_SCALE) for claim in claims]
    known: dict[tuple[str, ...], Evidence] = {}
    found = []
    for claim in claims:
        if claim.studies not in known:
            known[claim.studies] = load_evidence(claim.studies, grids, results)
        found.append(known[claim.studies])
    return judge(claims, found)


def write_claims(findings: Sequence[Finding], published: Published, out: Path) -> Path:
    """Write `out`/index.html, one self-contained page, `out`/claims.md and figures/; return the path of the page."""
    entries = [
        ClaimEntry(finding, printed_differences(finding.claim, published), _picture(finding, out / "figures"))
        for finding in findings
    ]
    out.mkdir(parents=True, exist_ok=True)
    path = out / "index.html"
    page = render(
        "claims.html.j2",
        entries=entries,
        headline=f"{counted(len(findings), 'claim')}: {texts.summary_text(findings)}",
        verdict_text=texts.verdict_text,
        tested_text=texts.tested_text,
        tests_text=texts.tests_text,
        tests=sum(len(finding.answers) for finding in findings),
        anchor=Anchors(),
    )
    path.write_text(page, encoding="utf-8")
    (out / "claims.md").write_text(claims_markdown(findings, published), encoding="utf-8")
    return path


def claims_markdown(findings: Sequence[Finding], published: Published) -> str:
    """Return the page of the documentation, without figures."""
    lines = [_HEAD, f"{counted(len(findings), 'claim')}: {texts.summary_text(findings)}.", ""]
    lines += ["| claim | verdict | tests | effect in the first test |", "|---|---|---|---|"]
    lines += [
        f"| [{_cell(each.claim.statement)}](#{each.claim.name}) | {each.verdict} "
        f"| {texts.tests_text(each)} | {_cell(texts.estimate_text(each.answers[0]))} |"
        for each in findings
    ]
    for finding in findings:
        entry = ClaimEntry(finding, printed_differences(finding.claim, published))
        claim = entry.claim
        source = claim.source
        for name, address in entry.links:
            source = source.replace(name, f"[{name}]({address})")
        lines += ["", f"## {claim.name}", "", claim.statement, "", f"**{texts.verdict_text(finding)}**", ""]
        lines += [f"Source: {source}. Studies: {', '.join(f'`{study}`' for study in claim.studies)}.", ""]
        if tested := texts.tested_text(finding):
            lines += [f"Tested on: {tested}.", ""]
        lines += [f"Limits: {claim.scale}" + (f" {claim.note}" if claim.note else ""), ""]
        lines += [
            "| test | expected | effect with 95% interval | seeds | p | corrected | verdict | seeds to decide |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += ["| " + " | ".join(_cell(text) for text in row.values()) + " |" for row in entry.rows]
        if entry.printed:
            lines += ["", "Published numbers:", ""]
            lines += [f"- {each.source}, {each.dataset} / {each.model}: {each.sentence}." for each in entry.printed]
    return "\n".join(lines) + "\n"


def _row(answer: Answer) -> dict[str, str]:
    where = answer.question.range
    return {
        "test": answer.question.subject + (f" ({where})" if where else ""),
        "expected": texts.expectation(answer),
        "effect": texts.estimate_text(answer),
        "seeds": str(answer.seeds) + (f" × {answer.effect.networks} networks" if answer.effect.networks > 1 else ""),
        "p": texts.p_text(answer.p),
        "corrected": texts.p_text(answer.p_holm),
        "verdict": answer.verdict,
        "more": texts.seeds_text(answer),
    }


def _row_of_network(answer: Answer, network: str, found: Effect) -> dict[str, str]:
    own = {"test": f"on {network}", "effect": texts.estimate_text(answer, found), "seeds": str(found.replicates)}
    own["verdict"] = {SUPPORTED: "for", CONTRADICTED: "against"}.get(answer.verdict_by_network[network], "")
    return dict.fromkeys(_row(answer), "") | own


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _picture(finding: Finding, folder: Path) -> Picture | None:
    drawn = draw_claim(finding)
    if drawn is None:
        return None
    save(drawn, folder / finding.claim.name)
    return Picture(finding.claim.name, finding.claim.statement, folder)
