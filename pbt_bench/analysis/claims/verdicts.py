"""Verdicts on claims: a test of every question, corrected over the questions of all claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isnan, nan

import msgspec
import numpy as np

from pbt_bench.analysis.claims.claim_file import Claim, Question
from pbt_bench.analysis.claims.evidence import Evidence, Values, values_of
from pbt_bench.analysis.records.columns import MISSING
from pbt_bench.analysis.statistics.effects import Effect, effect
from pbt_bench.analysis.statistics.paired import LEVEL, holm
from pbt_bench.running.estimate import estimate
from pbt_bench.running.outcomes import Outcome

SUPPORTED, CONTRADICTED, UNDECIDED, LACKING = "supported", "contradicted", "undecided", "missing"
VERDICTS = (SUPPORTED, CONTRADICTED, UNDECIDED, LACKING)


@dataclass(frozen=True)
class Answer:
    """The test of one question."""

    question: Question
    samples: Values
    effect: Effect
    leaning: str  # the verdict that a small p value would give
    p: float  # of that verdict, before correction; NaN without enough seeds
    p_holm: float = nan
    seeds_to_decide: float = nan  # per network; NaN if the question is decided or seeds cannot decide it

    @property
    def verdict(self) -> str:
        """One of VERDICTS."""
        if isnan(self.p):
            return LACKING
        return self.leaning if self._significant and not self.networks_disagree else UNDECIDED

    @property
    def by_network(self) -> dict[str, Effect]:
        """The effect on each network alone, if there are several."""
        networks = self.samples.networks()
        return {name: effect([values]) for name, values in networks.items()} if len(networks) > 1 else {}

    @property
    def verdict_by_network(self) -> dict[str, str]:
        """The verdict of each network alone, if there are several, without correction."""
        return {name: _verdict_alone(found, self.question) for name, found in self.by_network.items()}

    @property
    def networks_disagree(self) -> bool:
        """True if a network alone supports the claim, and another network or the mean contradicts it, or vice versa."""
        of_mean = {self.leaning} if self._significant else set()
        return {SUPPORTED, CONTRADICTED} <= of_mean.union(self.verdict_by_network.values())

    @property
    def _significant(self) -> bool:
        return self.p_holm < LEVEL

    @property
    def seeds(self) -> int:
        """The fewest seeds of a network; 0 without values."""
        return min(map(len, self.samples.networks().values()), default=0)


@dataclass(frozen=True)
class Lacking:
    """The runs that a claim needs and that have no result, and the estimated seconds that they take."""

    runs: int = 0  # without a record
    failed: int = 0
    needed: int = 0  # all of them, with those that have a result
    seconds: float | None = None  # one after another; None if no run of the studies was measured
    measured: int = 0  # runs that the estimate is based on
    unknown: Sequence[str] = ()  # studies without a grid file


@dataclass(frozen=True)
class Finding:
    """A claim with the answers to its questions."""

    claim: Claim
    answers: Sequence[Answer]
    lacking: Lacking = field(default_factory=Lacking)

    @property
    def verdict(self) -> str:
        """One of VERDICTS.

        A claim is supported if all its questions are, contradicted if any is, missing if any of the others cannot be
        tested, and otherwise undecided.
        """
        found = {answer.verdict for answer in self.answers}
        for verdict in (CONTRADICTED, LACKING, UNDECIDED):
            if verdict in found:
                return verdict
        return SUPPORTED

    @property
    def seeds_to_decide(self) -> float:
        """The most seeds that an undecided question needs; NaN if seeds can decide none."""
        return max((each.seeds_to_decide for each in self.answers if not isnan(each.seeds_to_decide)), default=nan)

    @property
    def networks_disagree(self) -> bool:
        """True if a question is undecided because networks disagree, which no number of seeds can change."""
        return any(answer.networks_disagree for answer in self.answers)


def judge(claims: Sequence[Claim], evidence: Sequence[Evidence]) -> list[Finding]:
    """Test every question of `claims` on the runs in `evidence`, one for each claim.

    The p values are Holm-corrected over the questions of all claims that can be tested.
    """
    answers = [
        [_answer(question, each) for question in claim.questions] for claim, each in zip(claims, evidence, strict=True)
    ]
    corrected = iter(_corrected([answer for each in answers for answer in each]))
    return [
        Finding(claim, tested := [next(corrected) for _ in own], _lacking(tested, each))
        for claim, own, each in zip(claims, answers, evidence, strict=True)
    ]


def decide(found: Effect, expect: str, bound: float) -> tuple[str, float, float, bool]:
    """Return the verdict that a small p value gives, the p value, the bound that it tests, and if it is one-sided.

    With the mean m and the bound b, the claim says

    - "greater": m > b; "less": m < -b; "above": m > b; "below": m < b. The two-sided t test of m against that bound
      supports the claim if m is on the claimed side, and contradicts it if m is on the other side;
    - "equal": -b < m < b. Two one-sided tests support it if m is inside: the larger p value of the two (Schuirmann
      1987). Outside, the two-sided test against the nearer bound contradicts it.
    """
    if expect == "equal":
        nearer = bound if found.mean >= 0 else -bound
        if abs(found.mean) < bound:
            return SUPPORTED, found.one_sided(nearer), nearer, True
        return CONTRADICTED, found.two_sided(nearer), nearer, False
    upward = expect in ("greater", "above")
    limit = -bound if expect == "less" else bound
    holds = found.mean > limit if upward else found.mean < limit
    return (SUPPORTED if holds else CONTRADICTED), found.two_sided(limit), limit, False


def _verdict_alone(found: Effect, question: Question) -> str:
    if not found.tested:
        return LACKING
    leaning, p, _, _ = decide(found, question.expect, question.bound)
    return leaning if p < LEVEL else UNDECIDED


def _answer(question: Question, evidence: Evidence) -> Answer:
    values = values_of(question, evidence)
    found = effect([*values.networks().values()])
    if not found.tested:
        return Answer(question, values, found, LACKING, nan)
    leaning, p, _, _ = decide(found, question.expect, question.bound)
    return Answer(question, values, found, leaning, p)


def _corrected(answers: Sequence[Answer]) -> list[Answer]:
    """Return the answers with corrected p values, and the seeds that would decide those that are undecided.

    That number is for the present spread and mean, at the level that Holm's correction gives to the present order.
    """
    p = np.array([answer.p for answer in answers], dtype="float64")
    known = ~np.isnan(p)
    whole = np.full(len(p), nan)
    whole[known] = holm(p[known])
    found = []
    for answer, own, value in zip(answers, whole, p, strict=True):
        found.append(answer := replace(answer, p_holm=float(own)))
        if isnan(value) or own < LEVEL or answer.networks_disagree:
            continue
        _, _, bound, one_sided = decide(answer.effect, answer.question.expect, answer.question.bound)
        level = LEVEL / int((p[known] >= value).sum()) / (1 if one_sided else 2)
        found[-1] = replace(answer, seeds_to_decide=answer.effect.seeds_to_find(bound, level))
    return found


def _lacking(answers: Sequence[Answer], evidence: Evidence) -> Lacking:
    wanted = {run_id for answer in answers for run_id in answer.samples.wanted}
    if not wanted:
        return Lacking(unknown=evidence.unknown)
    table = evidence.table
    without, failed = (set(table.loc[table["status"] == state, "run_id"]) & wanted for state in (MISSING, "failed"))
    measured = table.loc[table["status"] != MISSING, ["run_id", "status", "environment"]]
    outcomes = {row["run_id"]: msgspec.convert(row, Outcome) for row in measured.to_dict("records")}
    guess = estimate(evidence.specs, [evidence.specs[run_id] for run_id in sorted(without)], outcomes)
    return Lacking(len(without), len(failed), len(wanted), guess.seconds, guess.measured, evidence.unknown)
