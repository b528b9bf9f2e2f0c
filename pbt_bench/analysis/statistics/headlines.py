"""One sentence for a study and one for each of its networks, for a reader who reads nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pbt_bench.analysis.statistics.conclusions import spans
from pbt_bench.analysis.statistics.empty_layers import empty_layers_sentence
from pbt_bench.analysis.statistics.labels import counted, joined, tick_label
from pbt_bench.analysis.statistics.paired import LEVEL, Standing
from pbt_bench.analysis.statistics.panel import Panel
from pbt_bench.analysis.statistics.pooled import Pooled

_METHODS_NAMED = 3  # methods that are named; more are counted


@dataclass(frozen=True)
class Headline:
    """The sentence about one network; `remarks` explain winners that empty whole layers."""

    title: str
    sentence: str
    remarks: Sequence[str] = ()


def study_headline(found: Pooled) -> str:
    """Say which method has the highest mean accuracy over all settings, and from which others the seeds separate it."""
    names = list(found.means.index)
    if len(names) < 2:
        return "No two methods have an accuracy in every network yet: there is nothing to compare over all settings."
    first = names[0]
    mean = f"{100 * found.means[first]:.2f} %"
    said = f"Over {counted(found.settings, 'setting')}, {first} has the highest mean accuracy ({mean})"
    apart = found.pairs[(found.pairs["method_a"] == first) & (found.pairs["p_holm"] < LEVEL)]
    beaten = [name for name in names[1:] if name in set(apart["method_b"])]
    rest = [name for name in names[1:] if name not in beaten]
    if not rest:
        return f"{said} and is better than every other method."
    if beaten:
        return f"{said}: better than {_few(beaten)}, and not separated from {_few(rest)}."
    return f"{said}, but the seeds separate it from no other method."


def panel_headline(panel: Panel, found: Sequence[Standing]) -> Headline:
    """Say at which sparsities a method is better than every other; `found` is `standings(panel)`."""
    if not found:
        return Headline(panel.title, "no run has an accuracy yet.")
    labels = [tick_label(standing.sparsity) for standing in found]
    best: dict[str, list[int]] = {}
    alone: dict[str, list[int]] = {}
    undecided: list[int] = []
    for i, standing in enumerate(found):
        group = best if standing.settled and standing.against else alone
        group.setdefault(standing.leader, []).append(i) if standing.settled else undecided.append(i)
    parts = [f"{name} is better than every other method at {spans(at, labels)}" for name, at in best.items()]
    parts += [f"only {name} is above chance at {spans(at, labels)}" for name, at in alone.items()]
    if undecided:
        leaders = list(dict.fromkeys(found[i].leader for i in undecided))
        where = "at no sparsity is one method" if not parts else f"at {spans(undecided, labels)} no method is"
        parts.append(f"{where} better than every other (highest means: {_few(leaders)})")
    winners = {name: [found[i].sparsity for i in at] for name, at in {**alone, **best}.items()}
    remarks = [empty_layers_sentence(panel, name, at) for name, at in winners.items()]
    return Headline(panel.title, f"{'; '.join(parts)}.", [remark for remark in remarks if remark])


def _few(names: Sequence[str]) -> str:
    return joined(names) if len(names) <= _METHODS_NAMED else f"{len(names)} methods"
