"""What the numbers say, in plain sentences, and how sure one can be."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pbt_bench.analysis.summary import Panel, summarise


@dataclass(frozen=True)
class Verdict:
    """The two best methods at one sparsity, with mean ± half the 95% interval in percent."""

    sparsity: str
    best: str
    best_accuracy: str
    second: str
    second_accuracy: str
    lead: str  # percentage points between the means
    clear: bool  # the two 95% intervals do not overlap
    why: str  # "intervals apart", "intervals overlap", "one seed, no interval", ...


def verdicts(panel: Panel) -> list[Verdict]:
    """One verdict per sparsity that has an accuracy."""
    found = []
    for sparsity, column in summarise(panel.runs).dropna(subset="mean").groupby(level="sparsity"):
        ranked = column.droplevel("sparsity").sort_values("mean", ascending=False, kind="stable")
        first, best = ranked.index[0], ranked.iloc[0]
        if len(ranked) == 1:
            found.append(Verdict(f"{sparsity:g}", first, _shown(best), "", "", "", False, "no other method"))
            continue
        other = ranked.iloc[1]
        lead = best["mean"] - other["mean"]
        clear = bool(lead > best["half"] + other["half"])  # False where an interval is NaN
        if lead == 0:
            why = "tied"
        elif min(best["n"], other["n"]) < 2:
            why = "one seed, no interval"
        else:
            why = "intervals apart" if clear else "intervals overlap"
        found.append(
            Verdict(
                f"{sparsity:g}", first, _shown(best), ranked.index[1], _shown(other), f"{100 * lead:.2f}", clear, why
            )
        )
    return found


def sentences(panel: Panel, found: Sequence[Verdict]) -> list[str]:
    """The headline conclusions of one panel; says so where there are none."""
    if not found:
        return ["No run has an accuracy yet."]
    wins: dict[str, list[int]] = {}
    for i, verdict in enumerate(found):
        wins.setdefault("no single method" if verdict.why == "tied" else verdict.best, []).append(i)
    sparsities = [verdict.sparsity for verdict in found]
    ranked = sorted(wins.items(), key=lambda win: -len(win[1]))
    said = [f"Highest mean accuracy: {'; '.join(f'{method} at {_spans(at, sparsities)}' for method, at in ranked)}."]
    clear = [i for i, verdict in enumerate(found) if verdict.clear]
    if len(clear) == len(found):
        said.append("At every sparsity the leader's 95% interval is apart from the runner-up's.")
    elif clear:
        said.append(
            f"The leader's 95% interval is apart from the runner-up's at {_spans(clear, sparsities)}; "
            "elsewhere the order of the two is not settled."
        )
    elif any(verdict.second for verdict in found):
        said.append("At no sparsity is the leader's 95% interval apart from the runner-up's: the order is not settled.")
    return said + _against_dense(panel) + _collapses(panel.runs)


def _against_dense(panel: Panel) -> list[str]:
    if panel.dense["test_accuracy"].isna().all():
        return []
    dense = panel.dense["test_accuracy"].mean()
    best = summarise(panel.runs)["mean"].groupby(level="sparsity").max()
    near = best[best >= dense - 0.01]
    if near.empty:
        return [f"No method comes within one percentage point of the dense network ({100 * dense:.2f} %)."]
    return [
        f"The best method stays within one percentage point of the dense network ({100 * dense:.2f} %) "
        f"up to sparsity {near.index.max():g}."
    ]


def _collapses(runs: pd.DataFrame) -> list[str]:
    """Which methods lose whole layers, from which sparsity on."""
    diagnosed = runs[runs["collapsed_layers"].notna()]
    counts = diagnosed["method"].value_counts()
    empty = diagnosed[diagnosed["collapsed_layers"] > 0]
    parts = [
        f"{method} in {len(own)} of {counts[method]} runs (from sparsity {own['sparsity'].min():g})"
        for method, own in empty.groupby("method")
    ]
    if parts:
        return [f"Whole layers are pruned away by {'; '.join(parts)}."]
    return ["No method prunes a whole layer away."] if len(diagnosed) else []


def _shown(row: pd.Series) -> str:
    return f"{100 * row['mean']:.2f}" + (f" ± {100 * row['half']:.2f}" if row["n"] > 1 else "")


def _spans(chosen: Sequence[int], names: Sequence[str]) -> str:
    """`0.5, 0.9 to 0.98`: the chosen names, three or more neighbours in a row as a span."""
    parts: list[str] = []
    for _, group in itertools.groupby(enumerate(chosen), key=lambda pair: pair[1] - pair[0]):
        run = [names[i] for _, i in group]
        parts += run if len(run) < 3 else [f"{run[0]} to {run[-1]}"]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
