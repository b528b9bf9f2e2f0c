"""The runs of the studies that test claims: which of them a claim needs, and their values by network, cell and seed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from pbt_bench import shipped
from pbt_bench.analysis.claims.claim_file import ACCURACIES, OVERLAP, BestOf, Condition, Question, Selection, Side
from pbt_bench.analysis.records.columns import MISSING
from pbt_bench.analysis.records.data_frame import study_frame
from pbt_bench.analysis.statistics.jaccard import Masks, jaccard, mask_reader
from pbt_bench.analysis.statistics.odd_records import odd_records
from pbt_bench.analysis.statistics.panel import counted_accuracy
from pbt_bench.grid_file import load_grid
from pbt_bench.running.plan import check_names
from pbt_bench.running.store import Store
from pbt_bench.spec import DENSE, Recipe, RunSpec, Scoring

_OF_A_NETWORK = ["dataset", "model"]
_CLAIM_AXES = ("scope", "sanity", "warmup", "rewind", "init", "protocol", "pattern", "mask_updates")
_AXIS_DEFAULTS = {axis.name: axis.default for axis in msgspec.structs.fields(RunSpec) if axis.name in _CLAIM_AXES}
REFERENCE = "reference"  # the folder of the project's packed studies, below that of all results
_EQUAL_WITHIN = 1e-9  # sparsities that differ by less are equal
_FEWEST_METHODS = 4  # of a rank correlation


@dataclass(frozen=True)
class Evidence:
    """All runs of some studies, `missing` ones included, each once; `method` is the label, `base_method` the name."""

    table: pd.DataFrame
    specs: Mapping[str, RunSpec] = field(default_factory=dict)  # by run id
    read: Callable[[str], Masks | None] = lambda run_id: None  # masks by run id
    unknown: Sequence[str] = ()  # studies without a grid file


def load_evidence(studies: Iterable[str], grids: Path | None, results: Path) -> Evidence:
    """Read the records of `studies`; odd and superseded ones are left out, and runs without a record are `missing`.

    Their grid files are in the folder `grids`; without it, they are the shipped ones and those in grids/. A run without
    a record in `results`/NAME is looked up in `results`/reference/NAME, the packed studies of the project.
    """
    files = {path.stem: path for path in grids.glob("*.toml")} if grids else shipped.files(shipped.STUDIES)
    parts: list[pd.DataFrame] = []
    specs, readers, unknown = [], {}, []
    for name in studies:
        path = files.get(name)
        if path is None:
            unknown.append(name)
            continue
        store = Store(results / name)
        own = check_names(load_grid(path), str(path), store).runs()
        specs += own
        for each in (Store(results / REFERENCE / name), store):
            table = study_frame(own, each)
            table = table.assign(base_method=[spec.method for spec in own])
            table = table[~table["run_id"].isin(odd_records(table))]
            read = mask_reader(each, table)
            readers.update(dict.fromkeys(table.loc[table["status"] != MISSING, "run_id"], read))
            parts.insert(0, table)
    whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if len(whole):  # of a run that several studies have, keep a record
        whole = whole.assign(lacks=whole["status"] == MISSING).sort_values("lacks", kind="stable")
        whole = whole.drop_duplicates("run_id").drop(columns="lacks").sort_index().reset_index(drop=True)
    once = {spec.run_id: spec for spec in specs}
    return Evidence(whole, once, lambda run_id: readers[run_id](run_id) if run_id in readers else None, unknown)


@dataclass(frozen=True)
class Values:
    """The values of the sides of a question, and of what is tested: the difference, or the one side."""

    sides: Mapping[str, pd.Series]  # label -> value by (dataset, model, cell, sparsity, seed)
    tested: pd.Series
    wanted: Sequence[str] = field(default_factory=list)  # ids of the runs that the question needs

    def networks(self) -> dict[str, NDArray[np.float64]]:
        """Return the tested values by seed, averaged over cells, of each `dataset / model`.

        Cells without any value are left out. Seeds count that have a value in every remaining cell.
        """
        found = {}
        groups: Any = self.tested.groupby(level=_OF_A_NETWORK, sort=True)
        for network, own in groups:
            means = own.groupby(level=["cell", "seed"]).mean().rename("mean").reset_index()
            grid = means.pivot_table(index="cell", columns="seed", values="mean")
            whole = grid.dropna(how="all").dropna(axis="columns")
            if whole.size:
                found[" / ".join(network)] = whole.mean(axis=0).to_numpy(dtype="float64")
        return found


def values_of(question: Question, evidence: Evidence) -> Values:
    """Compute the values of a question from the runs of `evidence`."""
    if not len(evidence.table):
        return Values({}, _NOTHING)
    if question.correlation:
        return _correlations(question, evidence)
    fixed = {name for side in question.sides for name in side.conditions}
    parts = [_of_side(side, question, fixed, evidence) for side in question.sides]
    wanted = [run_id for part in parts for run_id in part.wanted]
    if question.metric == OVERLAP:
        tested = _overlaps(parts[0].numbers, parts[1].numbers, evidence.read)
        return Values({" and ".join(question.labels): tested}, tested, wanted)
    sides = {label: part.numbers for label, part in zip(question.labels, parts, strict=True)}
    first, *others = (part.numbers for part in parts)
    return Values(sides, _difference(first, others[0]) if others else first, wanted)


_KEYS = [*_OF_A_NETWORK, "cell", "sparsity", "seed"]
_NOTHING = pd.Series([], index=pd.MultiIndex.from_arrays([[]] * len(_KEYS), names=_KEYS), dtype="float64")


def _difference(first: pd.Series, second: pd.Series) -> pd.Series:
    """Subtract the values of the same cell and seed; values without a counterpart are left out."""
    first, second = first.align(second, join="inner")
    return first - second


@dataclass(frozen=True)
class _Part:
    """The values of one side, by `_KEYS`, and the ids of its runs."""

    numbers: pd.Series
    wanted: Sequence[str]


def _of_side(side: Side, question: Question, fixed: set[str], evidence: Evidence) -> _Part:
    if isinstance(side, BestOf):
        parts = [_of_side(choice, question, fixed, evidence) for choice in side.choices]
        return _Part(_best(parts), [run_id for part in parts for run_id in part.wanted])
    rows = matching_runs(evidence.table, question.where, side)
    if not len(rows):
        return _Part(_NOTHING, [])
    if "sparsity" in fixed:  # the sides differ in it
        rows = rows.assign(sparsity=0.0)
    keyed = rows.assign(cell=_cells(rows, fixed), value=metric_values(rows, question.metric))
    cells = keyed.groupby(_KEYS, sort=True)["value"]
    if question.metric == OVERLAP:
        return _Part(cells.first(), list(rows["run_id"]))
    # If a side has several runs in a cell, such as those of several methods, all of them count equally or none does.
    mean, known, size = cells.mean(), cells.count(), cells.size()
    most = size.groupby(level=[*_OF_A_NETWORK, "cell"]).transform("max")
    return _Part(mean[known == most], list(rows["run_id"]))


def matching_runs(table: pd.DataFrame, where: Condition, side: Selection) -> pd.DataFrame:
    """Select the runs of a side under the conditions `where`.

    An axis that no condition names has its default value. The dense network needs the condition `method = "dense"`. A
    name of a method is that of its one variant among the runs that fulfil the other conditions.
    """
    given = {**where, **side.conditions}
    wanted = given | {axis: value for axis, value in _AXIS_DEFAULTS.items() if axis not in given}
    methods = wanted.pop("method", None)
    found = table
    for name, value in wanted.items():
        found = found[_holds(_column(found, name), value)]
    if methods is None:
        return found[found["base_method"] != DENSE]
    of_options = any(name.startswith("options.") for name in given)
    chosen = [_named(found, name, of_options) for name in (methods if isinstance(methods, list) else [methods])]
    found = found[np.logical_or.reduce(chosen)]
    return found


def _named(table: pd.DataFrame, name: str, of_options: bool) -> NDArray[np.bool_]:
    """Return which runs are of a method: those of this label, and in networks without any, of the one variant.

    A study may run a method with one set of options: `imp` then names `imp (levels 31)`. With `of_options`, conditions
    on options select the variant.
    """
    base = (table["base_method"] == name).to_numpy()
    if of_options:
        return base
    exact = (table["method"] == name).to_numpy()
    network = (table["dataset"] + " / " + table["model"]).reset_index(drop=True)
    base = base & ~network.isin(set(network[exact])).to_numpy()
    variants = table["method"].reset_index(drop=True)[base].groupby(network[base]).nunique()
    found: NDArray[np.bool_] = exact | (base & network.isin(variants.index[variants == 1]).to_numpy())
    return found


def metric_values(rows: pd.DataFrame, metric: str) -> pd.Series:
    """Return the metric of each run; accuracies of diverged and collapsed runs are at chance."""
    if metric in ACCURACIES:
        return counted_accuracy(rows, metric).astype("float64")
    if metric == OVERLAP:
        return rows["run_id"].where(rows["layers"].notna())
    if metric == "smallest_layer_density":
        return rows["layers"].map(lambda layers: float(layers.densities.min()), na_action="ignore").astype("float64")
    if metric == "dead_weight_share":
        kept = 1 - rows["mask_sparsity"].astype("float64")
        live = 1 - rows["effective_sparsity"].astype("float64")
        return 1 - live / kept
    return rows["mask_sparsity" if metric == "sparsity" else metric].astype("float64")


def _best(parts: Sequence[_Part]) -> pd.Series:
    """Return the value of the part with the highest mean over the other seeds, in each cell.

    The choice never depends on the value that it returns, which would favour the best of many.
    """
    table = pd.concat([part.numbers for part in parts], axis=1, join="inner").dropna()
    found = []
    for _, cell in table.groupby(level=[*_OF_A_NETWORK, "cell"]):
        if len(cell) > 1:
            own = cell.to_numpy()
            chosen = (own.sum(axis=0) - own).argmax(axis=1)
            found.append(pd.Series(own[np.arange(len(own)), chosen], cell.index))
    return pd.concat(found) if found else _NOTHING


def _overlaps(first: pd.Series, second: pd.Series, read: Callable[[str], Masks | None]) -> pd.Series:
    """Compute the Jaccard index of the masks of two runs, whose ids are the values, in each cell and seed."""
    pairs = pd.concat([first, second], axis=1, join="inner").dropna()
    found = []
    for a, b in pairs.itertuples(index=False):
        masks = read(a), read(b)
        found.append(np.nan if masks[0] is None or masks[1] is None else jaccard(masks[0], masks[1])[0])
    return pd.Series(found, pairs.index, dtype="float64") if len(pairs) else _NOTHING


def _correlations(question: Question, evidence: Evidence) -> Values:
    """Compute Spearman's rank correlation of each predictor with the metric, over the methods of each cell and seed."""
    rows = matching_runs(evidence.table, question.where, Selection({}))
    wanted = list(rows["run_id"])
    if not len(rows):
        return Values({}, _NOTHING)
    predicted = metric_values(rows, question.metric)
    rows = rows.assign(cell=_cells(rows, {"method"}), predicted=predicted)
    names = question.correlation
    for name in names:
        metric = name.removeprefix("-")
        values = metric_values(rows, metric) * (-1 if name.startswith("-") else 1)
        if metric == "log10_paths":  # without a path it is lower than any other
            values = values.where(values.notna() | (rows["status"] != "collapsed"), -np.inf)
        rows = rows.assign(**{name: values})
    rows = rows.dropna(subset=["predicted", *names])
    found: dict[str, dict[tuple[Hashable, ...], float]] = {name: {} for name in names}
    for key, group in rows.groupby(_KEYS, sort=True):
        if len(group) >= _FEWEST_METHODS:
            ranks = {name: rankdata(group[name]) for name in ("predicted", *names)}
            for name in names:
                found[name][key] = _pearson(ranks[name], ranks["predicted"])
    index = pd.MultiIndex.from_tuples(list(found[names[0]]), names=_KEYS) if found[names[0]] else _NOTHING.index
    sides = {name: pd.Series(list(each.values()), index, dtype="float64") for name, each in found.items()}
    first, *others = sides.values()
    return Values(sides, _difference(first, others[0]) if others else first, wanted)


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Compute the correlation of two arrays, 0 if one of them is constant: a constant predicts nothing."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _cells(rows: pd.DataFrame, fixed: Iterable[str]) -> list[str]:
    """Return a text of everything that runs of one cell share: the fields of the specification except `fixed`."""
    names = frozenset(fixed)
    columns = [name for name in ("sparsity", "method", *_CLAIM_AXES) if name not in names]
    parts = [rows[name].map(str) for name in columns]
    parts += [
        rows[part].map(lambda settings, part=part: _settings(settings, part, names)) for part in ("recipe", "scoring")
    ]
    return [" | ".join(words) for words in zip(*parts, strict=True)]


@lru_cache(maxsize=4096)
def _settings(settings: Recipe | Scoring, part: str, fixed: frozenset[str]) -> str:
    left = {name: value for name, value in msgspec.structs.asdict(settings).items() if f"{part}.{name}" not in fixed}
    return msgspec.json.encode(left, order="sorted").decode()


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    part, _, key = name.partition(".")
    if not key:
        return table[name]
    if part == "options":
        return table["options"].map(lambda options: options.get(key))
    return table[part].map(lambda settings: getattr(settings, key))


def _holds(column: pd.Series, value: Any) -> pd.Series:
    if isinstance(value, list):
        return pd.Series(np.logical_or.reduce([_holds(column, each) for each in value]), column.index)
    if isinstance(value, Mapping):
        low, high = value.get("minimum", -np.inf), value.get("maximum", np.inf)
        numbers = pd.to_numeric(column, errors="coerce")
        return numbers.between(low - _EQUAL_WITHIN, high + _EQUAL_WITHIN)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        numbers = pd.to_numeric(column, errors="coerce")
        return (numbers - value).abs() < _EQUAL_WITHIN
    return column.map(lambda own: own == value).astype(bool)
