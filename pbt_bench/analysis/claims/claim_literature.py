"""Published numbers on the comparisons of a claim."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from pbt_bench.analysis.claims.claim_file import BestOf, Claim, Condition, Question, Selection, Side
from pbt_bench.analysis.records.published import Published
from pbt_bench.analysis.statistics.labels import points, tick_label
from pbt_bench.analysis.statistics.literature import label_identity
from pbt_bench.spec import DENSE

_PRINTED_CELL = ["source", "statistic", "dataset", "published_model", "sparsity"]
_PLAIN_VALUES = {"scope": "global", "sanity": "none"}  # the other axes have their default in all published runs


@dataclass(frozen=True)
class PrintedDifference:
    """The difference of two methods in the numbers that one source prints for one network; fractions."""

    source: str
    dataset: str
    model: str
    sides: str  # for example `fts - snip`
    cells: int  # sparsities
    sparsities: str
    mean: float
    lowest: float
    highest: float
    above: int  # cells in which the first is above the second

    @property
    def sentence(self) -> str:
        """The difference in one sentence."""
        of = f"{self.above} of {self.cells} sparsities" if self.cells > 1 else f"{self.above} of 1 sparsity"
        ends = f" ({points(self.lowest)} to {points(self.highest)})" if self.cells > 1 else ""
        return f"{self.sides}: {points(self.mean)} points{ends}, above in {of} ({self.sparsities})"


def printed_differences(claim: Claim, published: Published) -> list[PrintedDifference]:
    """Return the published differences for every comparison of two methods by accuracy in `claim`.

    Rows match in method, layer densities, sanity transform, mask updates and range of sparsities, for any dataset and
    network. Of several methods, the highest published one counts.
    """
    rows = published.rows[published.rows["method"] != DENSE].explode("methods")
    found: dict[tuple[str, ...], PrintedDifference] = {}
    for question in claim.questions:
        if question.accuracy and question.left and question.right:
            for each in _of_question(question, rows):
                found.setdefault((each.source, each.dataset, each.model, each.sides, each.sparsities), each)
    return list(found.values())


def _of_question(question: Question, rows: pd.DataFrame) -> list[PrintedDifference]:
    assert question.left
    assert question.right
    in_range = rows[_in_range(rows["sparsity"], question.where.get("sparsity"))]
    first, second = (_printed_means(side, question.where, in_range) for side in (question.left, question.right))
    both = pd.concat([first.rename("first"), second.rename("second")], axis=1, join="inner").reset_index()
    found = []
    for (source, dataset, model), cells in both.groupby(["source", "dataset", "published_model"], sort=True):
        gaps = cells["first"] - cells["second"]
        low, high = cells["sparsity"].min(), cells["sparsity"].max()
        found.append(
            PrintedDifference(
                source=str(source),
                dataset=str(dataset),
                model=str(model),
                sides=" - ".join(question.labels),
                cells=len(cells),
                sparsities=" to ".join(dict.fromkeys(map(tick_label, (low, high)))),
                mean=float(gaps.mean()),
                lowest=float(gaps.min()),
                highest=float(gaps.max()),
                above=int((gaps > 0).sum()),
            )
        )
    return found


def _printed_means(side: Side, where: Condition, rows: pd.DataFrame) -> pd.Series:
    choices = side.choices if isinstance(side, BestOf) else (side,)
    parts = [_of_choice(choice, where, rows) for choice in choices]
    highest: pd.Series = pd.concat(parts).groupby(level=_PRINTED_CELL).max()
    return highest


def _of_choice(choice: Selection, where: Condition, rows: pd.DataFrame) -> pd.Series:
    given = {name: value for name, value in ({**where, **choice.conditions}).items() if name != "sparsity"}
    methods = given.pop("method", None)
    plain = {name: given.pop(name, value) for name, value in _PLAIN_VALUES.items()}
    given.pop("dataset", None)
    given.pop("model", None)
    labels = methods if isinstance(methods, list) else [methods]
    if methods is None or given or not all(isinstance(value, str) for value in plain.values()):
        rows, labels = rows.iloc[:0], []
    keys = {label_identity(str(label), plain["scope"]) for label in labels}
    own = zip(rows["methods"], rows["scope"], rows["mask_updates"], strict=True)
    mine = rows[[key in keys for key in own]] if len(rows) else rows
    means: pd.Series = mine[mine["sanity"] == plain["sanity"]].groupby(_PRINTED_CELL)["mean"].mean()
    return means


def _in_range(sparsity: pd.Series, condition: object) -> pd.Series:
    if isinstance(condition, dict):
        return sparsity.between(condition.get("minimum", 0) - 1e-9, condition.get("maximum", 1) + 1e-9)
    if condition is None:
        return sparsity.notna()
    values = condition if isinstance(condition, list) else [condition]
    return sparsity.map(lambda own: any(abs(own - value) < 1e-9 for value in values)).astype(bool)
