"""Sentences about the results of a panel, and the statistical evidence for them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf, isnan

import pandas as pd

from pbt_bench.analysis.statistics.empty_layers import empty_layers_sentence
from pbt_bench.analysis.statistics.labels import counted, joined, points, tick_label
from pbt_bench.analysis.statistics.paired import FEWEST, MARGIN, Comparison, Standing
from pbt_bench.analysis.statistics.panel import Panel, summarise


@dataclass(frozen=True)
class Conclusion:
    """The conclusion at one sparsity; numbers are formatted text, differences are in percentage points."""

    sparsity: str
    sentence: str
    nearest: str  # the compared method with the highest mean after the leader's, or that all others are at chance
    difference: str  # leader - nearest, with its 95% interval
    p: str  # p value of the paired t test of leader and nearest
    detectable: str  # the smallest difference to the nearest that these seeds find with probability 0.8
    seeds: str  # the number that would find the difference to the nearest with that probability; "" if it is found


def conclude(panel: Panel, found: Sequence[Standing]) -> list[Conclusion]:
    """Return the conclusion at each sparsity; `found` is `standings(panel)`."""
    means = panel.cells["mean"].to_dict()
    said = []
    for standing in found:
        mean = 100 * means[standing.leader, standing.sparsity]
        first = standing.against[0] if standing.against else None
        said.append(
            Conclusion(
                sparsity=tick_label(standing.sparsity),
                sentence=_sentence(panel, standing, f"{standing.leader} ({mean:.2f} %)"),
                nearest=first.other if first else "all at chance" if standing.at_chance else "",
                difference=_difference(first) if first else "",
                p="" if first is None or isnan(first.p) else "< 0.001" if first.p < 0.001 else f"{first.p:.3f}",
                detectable="" if first is None or isnan(first.detectable) else f"{100 * first.detectable:.2f}",
                seeds="" if first is None or standing.settled else _seeds(first),
            )
        )
    return said


def main_conclusions(panel: Panel, found: Sequence[Standing]) -> list[str]:
    """Return the main conclusions of one panel, none if no run has an accuracy."""
    if not found:
        return []
    wins: dict[str, list[int]] = {}
    for i, standing in enumerate(found):
        tie = standing.against and standing.against[0].level
        wins.setdefault("no single method" if tie else standing.leader, []).append(i)
    sparsities = [tick_label(standing.sparsity) for standing in found]
    ranked = sorted(wins.items(), key=lambda win: -len(win[1]))
    said = [f"Highest mean accuracy: {'; '.join(f'{method} at {spans(at, sparsities)}' for method, at in ranked)}."]
    settled = [i for i, standing in enumerate(found) if standing.settled and standing.against]
    alone = [i for i, standing in enumerate(found) if standing.settled and not standing.against]
    if alone:
        said.append(f"Every method but the leader is at chance in every run at {spans(alone, sparsities)}.")
    if settled:
        rest = "." if len(settled) + len(alone) == len(found) else "; elsewhere the order at the top is not settled."
        said.append(f"The leader is better than every other method at {spans(settled, sparsities)}{rest}")
    elif any(standing.against for standing in found):
        said.append("At no sparsity is the leader better than every other method by more than chance explains.")
    return said + _against_dense(panel) + _ends(panel.runs) + _collapses(panel.runs)


def _sentence(panel: Panel, standing: Standing, leader: str) -> str:
    said = [_verdict(standing, leader)]
    if standing.at_chance and standing.against:
        said.append(f"At chance in every run: {joined(standing.at_chance)}.")
    said.append(empty_layers_sentence(panel, standing.leader, [standing.sparsity]))
    return " ".join(filter(None, said))


def _verdict(standing: Standing, leader: str) -> str:
    if standing.at_chance and not standing.against:
        verb = "are" if len(standing.at_chance) > 1 else "is"
        return f"{leader} is above chance, and {joined(standing.at_chance)} {verb} at chance in every run."
    if standing.settled:
        return f"{leader} is better than every other method."
    if not standing.against:
        return f"Only {leader} has an accuracy: nothing to compare."
    level = [other.other for other in standing.against if other.level]
    highest = f"{joined([leader, *level])} {'share' if level else 'has'} the highest mean"
    pairs = min(comparison.pairs for comparison in standing.against)
    if pairs < FEWEST:
        return f"{highest}, but {counted(pairs, 'seed')} in common with some method cannot support any order."
    said = [f"better than {joined(found)}"] if (found := standing.marked("worse")) else []
    said += [f"equal within {100 * MARGIN:g} point to {joined(found)}"] if (found := standing.marked("equal")) else []
    said += [f"undecided: {joined(found)}"] if (found := standing.marked("undecided")) else []
    return f"{highest}; {', '.join(said)}." if said else f"{highest}."


def _seeds(comparison: Comparison) -> str:
    """Return the number of seeds that would decide; "" if the spread of the differences is unknown."""
    needed = comparison.seeds_needed
    return "" if isnan(needed) or comparison.level else "> 1000" if isinf(needed) else f"{needed:.0f}"


def _difference(comparison: Comparison) -> str:
    mean = points(comparison.mean)
    if isnan(comparison.low):
        return mean
    return f"{mean} [{points(comparison.low)}, {points(comparison.high)}]"


def _against_dense(panel: Panel) -> list[str]:
    if panel.dense["test_accuracy"].isna().all():
        return []
    dense = summarise(panel.dense)["mean"].iloc[0]
    best = panel.cells["mean"].groupby(level="sparsity").max()
    near = best[best >= dense - 0.01]
    if near.empty:
        return [f"No method comes within one percentage point of the dense network ({100 * dense:.2f} %)."]
    return [
        f"The best method stays within one percentage point of the dense network ({100 * dense:.2f} %) "
        f"up to sparsity {tick_label(near.index.max())}."
    ]


def _ends(runs: pd.DataFrame) -> list[str]:
    """Report the number of runs per method that collapsed or diverged and therefore count at chance accuracy."""
    said = []
    for status in ("collapsed", "diverged"):
        counts = runs.loc[runs["status"] == status, "method"].value_counts()
        if len(counts):
            parts = joined([f"{count} of {method}" for method, count in counts.items()])
            said.append(f"Counted at chance accuracy because they {status}: {parts}.")
    return said


def _collapses(runs: pd.DataFrame) -> list[str]:
    """Report the methods with empty layers and the lowest sparsity at which each has one."""
    diagnosed = runs[runs["collapsed_layers"].notna()]
    counts = diagnosed["method"].value_counts()
    empty = diagnosed[diagnosed["collapsed_layers"] > 0]
    parts = [
        f"{method} in {len(own)} of {counts[method]} runs (from sparsity {tick_label(own['sparsity'].min())})"
        for method, own in empty.groupby("method")
    ]
    if parts:
        return [f"Whole layers are pruned away by {'; '.join(parts)}."]
    return ["No method prunes a whole layer away."] if len(diagnosed) else []


def spans(chosen: Sequence[int], names: Sequence[str]) -> str:
    """Join the names at the chosen indices; three or more consecutive ones are a span: `0.5 and 0.9 to 0.98`."""
    parts: list[str] = []
    for _, group in itertools.groupby(enumerate(chosen), key=lambda pair: pair[1] - pair[0]):
        run = [names[i] for _, i in group]
        parts += run if len(run) < 3 else [f"{run[0]} to {run[-1]}"]
    return joined(parts)
