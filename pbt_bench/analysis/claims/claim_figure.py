"""The figure of a claim: its metrics against sparsity, with a line for each side of its tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t

from pbt_bench.analysis.claims.claim_file import Question
from pbt_bench.analysis.claims.verdicts import Finding
from pbt_bench.analysis.figures import multiples, style
from pbt_bench.analysis.statistics.method_styles import method_order

_MOST_AXES = 6  # of one figure


@dataclass(frozen=True)
class _Item:
    """The values of one metric in one network."""

    title: str
    ylabel: str
    percent: bool
    lines: dict[str, pd.Series]  # label -> value by (dataset, model, cell, sparsity, seed)


def draw_claim(finding: Finding) -> Figure | None:
    """Draw the mean over seeds, with its 95% interval, of every side of every test; None without a value."""
    items = _items(finding)[:_MOST_AXES]
    if not items:
        return None
    methods = method_order(dict.fromkeys(label for item in items for label in item.lines))
    return multiples.facets(items, lambda axes, item: _draw_item(axes, item, methods), methods)


def _items(finding: Finding) -> list[_Item]:
    found: dict[tuple[str, bool, str], dict[str, list[pd.Series]]] = {}
    recipes = [_recipe(answer.question) for answer in finding.answers]
    for answer, recipe in zip(finding.answers, recipes, strict=True):
        question = answer.question
        name = f"rank correlation with {question.metric}" if question.correlation else question.metric
        differing = "" if len(set(recipes)) == 1 else recipe
        lines = found.setdefault((name.replace("_", " "), question.percent, differing), {})
        for label, values in answer.samples.sides.items():
            lines.setdefault(label, []).append(values)
    items = []
    for (name, percent, recipe), lines in found.items():
        whole = {label: _once(parts) for label, parts in lines.items()}
        networks = dict.fromkeys(key[:2] for values in whole.values() for key in values.index)
        for dataset, model in networks:
            own = {label: values[_of(values, dataset, model)] for label, values in whole.items()}
            own = {label: values for label, values in own.items() if len(values)}
            ylabel = f"{name} (%)" if percent else name
            items.append(_Item(", ".join(filter(None, (f"{dataset} / {model}", recipe))), ylabel, percent, own))
    return items


def _recipe(question: Question) -> str:
    """Return the conditions of a question on the recipe: its runs are not averaged with those of another one."""
    own = {name: value for name, value in question.where.items() if name.startswith("recipe.")}
    return replace(question, where=own).range


def _once(parts: list[pd.Series]) -> pd.Series:
    """Join the values of several tests, which share cells."""
    whole = pd.concat(parts)
    once: pd.Series = whole[~whole.index.duplicated()].dropna()
    return once


def _of(values: pd.Series, dataset: str, model: str) -> np.ndarray:
    index = values.index
    return np.asarray((index.get_level_values("dataset") == dataset) & (index.get_level_values("model") == model))


def _draw_item(axes: Axes, item: _Item, methods: list[str]) -> None:
    axes.set_title(style.title(item.title))
    axes.set_ylabel(item.ylabel)
    scale, limits = (100, (0.0, 100.0)) if item.percent else (1, (-np.inf, np.inf))
    sparsities = sorted({key for values in item.lines.values() for key in values.index.get_level_values("sparsity")})
    gap = style.smallest_gap(style.position(sparsities))
    own = [method for method in methods if method in item.lines]
    for number, method in enumerate(own):
        by_seed = scale * item.lines[method].groupby(level=["sparsity", "seed"]).mean()
        cells = by_seed.groupby(level="sparsity").agg(["mean", "std", "count"])
        half = t.ppf(0.975, np.maximum(cells["count"] - 1, 1)) * cells["std"] / np.sqrt(cells["count"])
        x = style.position(cells.index.to_numpy())
        bars = x + multiples.dodge(number, len(own), gap)
        mean = cells["mean"].to_numpy()
        multiples.line(axes, method, x, mean, half.to_numpy(), bars, limits)
    style.sparsity_axis(axes, sparsities, 2.6)
