"""The keys of a grid file and the fields of a record with their meanings, read from the code that checks them."""

from __future__ import annotations

import inspect
import re

import msgspec
from text import toml

from pbt_bench import spec
from pbt_bench.running.record import Epoch, Layer, Metrics, Pruning, RunRecord
from pbt_bench.spec import Axes, Grid, Recipe, Scoring

_FIELD = re.compile(r"^    (\w+): (.+?)(?: = .+?)?(?:  # (.*))?$", re.MULTILINE)
_COMMENT = re.compile(r"^    (\w+): .*?  # (.*)$", re.MULTILINE)
_AXES = {
    "dataset": "`pbt-bench list datasets`",
    "model": "`pbt-bench list models`, `torchvision/NAME` or `timm/NAME`",
    "method": "`pbt-bench list methods`",
    "sparsity": "share of the prunable weights that is pruned, from 0 to below 1; exactly floor(sparsity · N) are",
    "seed": "of the initial weights, the data order, augmentation, probes and random scores, each a stream of its own",
    "scope": "where scores compete: in the whole network, or in layers: of one density (`layer`; `uniform` keeps the"
    " first one dense), or of densities by the Erdős-Rényi-Kernel rule (`erk`)",
    "sanity": "what is done to the masks: nothing, shuffled within layers, weights drawn anew, scores inverted",
    "warmup": "dense training before scoring: `none`, `N epochs` or `N steps`",
    "rewind": "after the warm-up and the scoring, go back to the initial weights",
    "init": "of the weights: as the model's layers do by default, or Kaiming normal",
    "protocol": "score every method as `[scoring]` says, or each as its published code does (its page says how; where"
    " that code augments, images are augmented as `[recipe]` says)",
}


def grid_page() -> str:
    """Axes, [recipe] and [scoring]."""
    return "\n".join(
        [
            "# A grid file",
            "",
            "What to run: one TOML file per study. Unknown keys and values out of range are errors of one line that",
            "name the nearest valid one. `--set recipe.epochs=2` changes a key for one call.",
            "",
            "- `name`: the results are kept in `results/<name>/`",
            "- `dense`: also run the dense network, once per dataset, model, seed and init (default `true`)",
            "- `recipe`: instead of the table `[recipe]`, the name of a [published recipe](recipes.md)",
            "",
            "## `[grid]`: the axes",
            "",
            "Each may be one value or a list; the study is their product.",
            "",
            "| key | default | values |",
            "|---|---|---|",
            *(_row(field, _AXES[field.name]) for field in msgspec.structs.fields(Axes)),
            "",
            *_table("[recipe]", Recipe, "How the masked network is trained."),
            *_table("[scoring]", Scoring, "On what data, in which mode and with which numbers scores are computed."),
        ]
    )


def _table(title: str, kind: type[Recipe] | type[Scoring], text: str) -> list[str]:
    meanings = dict(_COMMENT.findall(inspect.getsource(kind)))
    bounds = {name: _bounds(low, high) for name, low, high in kind._ranges()}
    rows = []
    for field in msgspec.structs.fields(kind):
        known = (bounds.get(field.name), meanings.get(field.name))
        rows.append(_row(field, "; ".join(part for part in known if part)))
    return [f"## `{title}`", "", text, "", "| key | default | values, meaning |", "|---|---|---|", *rows, ""]


def record_page() -> str:
    """The parts of a record."""
    lines = [
        "# A record",
        "",
        "One finished run is one JSON file, `results/<name>/runs/<run_id>.json`. `pbt-bench show RUN_ID` prints it;",
        "`pbt_bench.load_results` makes one data frame of all. Fields that are none are `null`.",
        "",
    ]
    for title, kind in (
        ("The record", RunRecord), ("`metrics`", Metrics), ("`pruning`", Pruning), ("`pruning.layers`", Layer),
        ("`curve`", Epoch),
    ):  # fmt: skip
        code = inspect.getsource(kind).split("\n    def ")[0]
        rows = [
            f"| `{name}` | `{type_.replace('|', 'or')}` | {meaning} |" for name, type_, meaning in _FIELD.findall(code)
        ]
        text = inspect.cleandoc(kind.__doc__ or "")
        lines += [f"## {title}", "", text, "", "| field | type | |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _bounds(low: float, high: float) -> str:
    if high == float("inf"):
        return f"at least {low:g}"
    return f"{low:g} to {high:g}" if high < 2**31 else ""


def _row(field: msgspec.structs.FieldInfo, meaning: str) -> str:
    value = field.default
    if isinstance(value, tuple) and field.name in _AXES:
        value = value[0]
    default = "required" if field.required else "none" if value is None else f"`{toml(value)}`"
    named = spec._CHOICES.get(field.name, ()) if isinstance(value, str) else ()
    choices = ", ".join(f"`{choice}`" for choice in named)
    return (
        f"| `{field.name}` | {default} | {'; '.join(part for part in (choices, meaning.replace('|', '/')) if part)} |"
    )


assert _AXES.keys() == {field.name for field in msgspec.structs.fields(Axes)}
assert {field.name for field in msgspec.structs.fields(Grid)} == {"name", "grid", "recipe", "scoring", "dense"}
