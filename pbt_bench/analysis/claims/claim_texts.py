"""Findings about claims as short texts and as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import isfinite, isinf, isnan
from typing import Any

from pbt_bench.analysis.claims.verdicts import LACKING, UNDECIDED, VERDICTS, Answer, Finding, Lacking
from pbt_bench.analysis.statistics.effects import Effect
from pbt_bench.analysis.statistics.labels import counted, joined, points
from pbt_bench.analysis.statistics.paired import FEWEST
from pbt_bench.running.progress import duration

_HOUR = 3600  # seconds


def amount(answer: Answer, value: float) -> str:
    """Format a value of an answer: percentage points of an accuracy, or a number; a difference has a sign."""
    if isnan(value):
        return "–"
    question = answer.question
    of_two = question.expect in ("greater", "equal", "less")
    if question.percent:
        return f"{points(value)} points" if of_two else f"{100 * value:.2f}%"
    return f"{value:+.3g}" if of_two else f"{value:.3g}"


def estimate_text(answer: Answer, found: Effect | None = None) -> str:
    """Return an effect, by default that of the answer, with its 95% interval; equal values on all seeds have none."""
    found = found or answer.effect
    if not found.tested:
        return "–"
    low, high = found.interval
    if isnan(low):
        return f"{amount(answer, found.mean)} on every seed"
    ends = [amount(answer, end).removesuffix(" points").removesuffix("%") for end in (low, high)]
    return f"{amount(answer, found.mean)} [{ends[0]} to {ends[1]}]"


def expectation(answer: Answer) -> str:
    """Return what the claim says about the effect, for example `above +1.00 points`."""
    question, bound = answer.question, answer.question.bound
    if question.expect == "equal":
        return f"within {amount(answer, bound).removeprefix('+')}"
    words = {"greater": "above", "less": "below"}
    limit = -bound if question.expect == "less" else bound
    return f"{words.get(question.expect, question.expect)} {amount(answer, limit) if limit else '0'}"


def p_text(p: float) -> str:
    """Format a p value."""
    return "–" if isnan(p) else "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def seeds_text(answer: Answer) -> str:
    """Return the number of seeds that would decide an undecided question, or why none would, else the empty text."""
    if answer.verdict != UNDECIDED:
        return ""
    if answer.networks_disagree:
        return "networks disagree"
    return "more than 1,000" if isinf(answer.seeds_to_decide) else f"{answer.seeds_to_decide:.0f}"


def lacking_text(lacking: Lacking) -> str:
    """Say which runs lack and how long they take; the empty text if none lacks."""
    said = []
    if lacking.unknown:
        said.append(f"No grid file of {joined(lacking.unknown)} yet.")
    if not lacking.needed and not lacking.unknown:
        said.append("The studies have no run that a test needs.")
    if lacking.runs:
        runs = f"{lacking.runs} of {counted(lacking.needed, 'run')} are missing"
        judged = f"judged by {counted(lacking.measured, 'run')}"
        if lacking.seconds is None:
            said.append(f"{runs}; how long they take is unknown until one run was measured.")
        else:
            said.append(f"{runs}; they take one worker about {duration(lacking.seconds)}, {judged}.")
    if lacking.failed:
        said.append(f"{lacking.failed} of {counted(lacking.needed, 'run')} failed.")
    return " ".join(said)


def tested_text(finding: Finding) -> str:
    """Name the networks that a value comes from, with the number of seeds; the empty text without a value."""
    seeds: dict[str, set[int]] = {}
    for answer in finding.answers:
        index = answer.samples.tested.dropna().index
        for dataset, model, seed in zip(*map(index.get_level_values, ("dataset", "model", "seed")), strict=True):
            seeds.setdefault(f"{dataset} / {model}", set()).add(seed)
    return ", ".join(f"{name} ({counted(len(each), 'seed')})" for name, each in sorted(seeds.items()))


def verdict_text(finding: Finding) -> str:
    """Return the verdict in one sentence, with what would change it."""
    lacks = lacking_text(finding.lacking)
    tests = f" (tests: {tests_text(finding)})" if len(finding.answers) > 1 else ""
    if finding.verdict == UNDECIDED:
        seeds = finding.seeds_to_decide
        would = f"{'more than 1,000' if isinf(seeds) else f'about {seeds:.0f}'} seeds would decide"
        why = "the networks disagree" if finding.networks_disagree else would
        said = f"Undecided with {counted(_seeds(finding), 'seed')}{tests}; {why}."
        return said + f" {lacks}" * bool(lacks)
    if finding.verdict == LACKING:
        untested = sum(answer.verdict == LACKING for answer in finding.answers)
        why = f"{untested} of {counted(len(finding.answers), 'test')} {'has' if untested == 1 else 'have'} fewer than"
        return f"Missing: {why} {FEWEST} common seeds with a value." + f" {lacks}" * bool(lacks)
    return f"{finding.verdict.capitalize()} with {counted(_seeds(finding), 'seed')}{tests}." + f" {lacks}" * bool(lacks)


def tests_text(finding: Finding) -> str:
    """Count the verdicts of the tests of a claim: `2 supported, 1 undecided`."""
    return _counts([answer.verdict for answer in finding.answers])


def summary_text(findings: Sequence[Finding]) -> str:
    """Count the verdicts: `2 supported, 1 undecided`."""
    return _counts([finding.verdict for finding in findings])


def plain_data(finding: Finding) -> dict[str, Any]:
    """Return a finding for JSON; a number that is not known or not finite is None."""
    lacking = finding.lacking
    return {
        "name": finding.claim.name,
        "verdict": finding.verdict,
        "statement": finding.claim.statement,
        "source": finding.claim.source,
        "scale": finding.claim.scale,
        "studies": list(finding.claim.studies),
        "seeds_to_decide": _finite(finding.seeds_to_decide),
        "missing_runs": lacking.runs,
        "failed_runs": lacking.failed,
        "needed_runs": lacking.needed,
        "missing_hours": None if lacking.seconds is None else lacking.seconds / _HOUR,
        "missing_grids": list(lacking.unknown),
        "tests": [_test_data(answer) for answer in finding.answers],
    }


def _test_data(answer: Answer) -> dict[str, Any]:
    question = answer.question
    number = "value" if question.expect in ("above", "below") else "margin"
    return {
        "metric": question.metric,
        "of": question.labels,
        "where": dict(question.where),
        "expect": question.expect,
        number: question.bound,
        "verdict": answer.verdict,
        "estimate": _finite(answer.effect.mean),
        "interval": [_finite(end) for end in answer.effect.interval],
        "n": answer.seeds,
        "networks": answer.effect.networks,
        "networks_disagree": answer.networks_disagree,
        "by_network": {
            name: {
                "estimate": found.mean,
                "interval": [_finite(end) for end in found.interval],
                "n": found.replicates,
                "verdict": answer.verdict_by_network[name],
            }
            for name, found in answer.by_network.items()
        },
        "p": _finite(answer.p),
        "p_holm": _finite(answer.p_holm),
        "seeds_to_decide": _finite(answer.seeds_to_decide),
    }


def _counts(verdicts: Sequence[str]) -> str:
    found = Counter(verdicts)
    return ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS if found[verdict])


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _seeds(finding: Finding) -> int:
    return min((answer.seeds for answer in finding.answers if answer.verdict != LACKING), default=0)
