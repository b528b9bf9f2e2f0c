"""Comparison of panels that differ in one axis: accuracies at another value minus those at its default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pandas as pd

from pbt_bench.analysis.statistics.labels import points, text_of, tick_label
from pbt_bench.analysis.statistics.paired import LEVEL, Comparison, accuracies, compare
from pbt_bench.analysis.statistics.panel import Panel
from pbt_bench.analysis.statistics.tables import Cell, Row, Table
from pbt_bench.spec import RunSpec

AXES = ("sanity", "warmup", "rewind", "init", "scope", "protocol", "pattern")
_SAME = ("dataset", "model", "recipe", "scoring")
_ALL = "mean"


@dataclass(frozen=True)
class Variant:
    """A panel compared with its base, which differs in `axis` alone and has its default value."""

    panel: Panel
    axis: str
    value: str
    default: str
    lines: dict[str, list[Comparison]]  # sparsity, or "mean" over sparsities -> variant - default per method

    @property
    def title(self) -> str:
        """Dataset, model and both values, for example `digits / resnet8: sanity shuffle against none`."""
        others = [part for part in self.panel.setting.split(", ") if part and not part.startswith(f"{self.axis} ")]
        panel = f"{self.panel.dataset} / {self.panel.model}" + (f" ({', '.join(others)})" if others else "")
        return f"{panel}: {self.axis} {self.value} against {self.default}"


def find_variants(parts: Sequence[Panel]) -> list[Variant]:
    """Find every pair of panels that differ in one axis, one of them at its default, and have common runs.

    Common runs have the same method, sparsity and seed, and an accuracy.
    """
    defaults = {field.name: field.default for field in msgspec.structs.fields(RunSpec)}
    settings = [{name: panel.runs.iloc[0][name] for name in (*_SAME, *AXES)} for panel in parts]
    by_setting = {tuple(setting.values()): panel for panel, setting in zip(parts, settings, strict=True)}
    found = []
    for panel, setting in zip(parts, settings, strict=True):
        for axis in AXES:
            base = by_setting.get(tuple((setting | {axis: defaults[axis]}).values()), panel)
            if base is not panel and (lines := _lines(panel, base)):
                found.append(Variant(panel, axis, text_of(setting[axis]), text_of(defaults[axis]), lines))
    return found


def variant_table(variant: Variant) -> Table:
    """Create a table with a row per sparsity and for their mean, and a column per method.

    Significant differences, positive or negative, are bold.
    """
    methods = [one.other for one in variant.lines[_ALL]]
    rows = [Row(label, "", [_effect_cell(one) for one in line]) for label, line in variant.lines.items()]
    fields = ("pairs", "mean", "low", "high", "p", "p_holm")
    numbers = [
        {"sparsity": label, "method": one.other} | {name: getattr(one, name) for name in fields}
        for label, line in variant.lines.items()
        for one in line
    ]
    caption = (
        f"test accuracy with {variant.axis} {variant.value} minus that with {variant.default}, percentage points, "
        "with the 95% interval over seeds (Student t); bold where a paired t test, Holm-corrected over the row, agrees."
    )
    return Table(variant.title, caption, methods, rows, [], pd.DataFrame(numbers))


def variant_sentence(variant: Variant) -> str:
    """Describe which methods gain or lose accuracy by the variant, averaged over sparsities."""
    line = variant.lines[_ALL]
    better = [one.other for one in line if differs(one) and one.mean > 0]
    worse = [one.other for one in line if differs(one) and one.mean < 0]
    rest = [one.other for one in line if one.pairs and not differs(one)]
    parts = [f"raises the accuracy of {', '.join(better)}"] * bool(better)
    parts += [f"lowers the accuracy of {', '.join(worse)}"] * bool(worse)
    parts += [f"shows no difference for {', '.join(rest)}"] * bool(rest)
    return f"On average over sparsities, {variant.axis} {variant.value} {'; '.join(parts)}."


def differs(one: Comparison) -> bool:
    """Return True if the corrected test is significant."""
    return one.p_holm < LEVEL


def _lines(panel: Panel, base: Panel) -> dict[str, list[Comparison]]:
    own, other = accuracies(panel), accuracies(base)
    seeds, sparsities, methods = (
        [name for name in getattr(own, axis) if name in getattr(other, axis)]
        for axis in ("seeds", "sparsities", "methods")
    )
    gaps = own.part(seeds, sparsities, methods) - other.part(seeds, sparsities, methods)
    some = [i for i in range(len(methods)) if not np.isnan(gaps[:, :, i]).all()]
    if not some:
        return {}
    gaps, methods = gaps[:, :, some], [methods[i] for i in some]
    lines = dict(zip((tick_label(sparsity) for sparsity in sparsities), compare(gaps, methods), strict=True))
    # Sparsities of one seed are not independent: test their mean as one value.
    known = ~np.isnan(gaps)
    sums = np.where(known, gaps, 0).sum(axis=1, keepdims=True)
    count = known.sum(axis=1, keepdims=True)
    (lines[_ALL],) = compare(np.where(count > 0, sums / np.maximum(count, 1), np.nan), methods)
    return lines


def _effect_cell(one: Comparison) -> Cell:
    if not one.pairs:
        return Cell(note="missing")
    interval = "" if np.isnan(one.low) else f"{points(one.low)} to {points(one.high)}"
    return Cell(points(one.mean), "", interval, "best" if differs(one) else "")
