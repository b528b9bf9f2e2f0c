"""Pages of the keys of a grid file and of the fields of a record, made from the structures that define them."""

from __future__ import annotations

import inspect
import re

import msgspec
from text import toml

from pbt_bench.constraints import Checked, annotated, fields
from pbt_bench.grid_file import _GridFile
from pbt_bench.pruning.plugins import pruners
from pbt_bench.running.record import Epoch, Layer, MaskMetrics, Metrics, Pruning, RunRecord
from pbt_bench.spec import Axes, Recipe, RunSpec, Scoring

_FIELD = re.compile(r"^    (\w+): (.+?)(?: = .+?)?(?:  # (.*))?$", re.MULTILINE)
_COMMENTED = re.compile(r"((?:^    # .*\n)*)^    (\w+): .*?(?:  # (.*))?$", re.MULTILINE)  # comment above or beside
_LISTS = (
    "A list of values is an axis: each value is a run of its own. For a key that is a list, such as `milestones`,"
    " a list of lists is an axis."
)
_AXES = {
    "dataset": "`pbt-bench list datasets`",
    "model": "`pbt-bench list models`, `torchvision/NAME` or `timm/NAME`",
    "method": "`pbt-bench list methods`",
    "sparsity": "fraction of the N prunable weights that is pruned: exactly floor(sparsity · N) weights",
    "seed": "seed of the initial weights, data order, augmentation, probes and random scores, each with its own stream",
    "scope": "the weights that are ranked together: those of the whole network (`global`), or those of each layer,"
    " whose densities a [scope](scopes.md) sets (`pbt-bench list scopes`)",
    "sanity": "change the result of pruning: no change, shuffle the mask of each layer, draw new weights, or invert the"
    " scores",
    "warmup": "dense training before scoring. `early_crop` ends it by the rule of EarlyCroP (arXiv:2206.10451): after"
    " the first epoch e > 2 for which d_e and d_(e-1) differ by less than F · d_2, and at the latest with the recipe."
    " d_e is the distance of all parameters from those after epoch 1, relative to their norm. F is 1 - sparsity, or the"
    " number of `early_crop F`, which all sparsities share. The notes of the record have the step and the distances",
    "rewind": "return to the initial weights after warm-up and scoring. Rewinding to a step is an option of `imp`",
    "init": "initial weights: the default of each layer, Kaiming normal, random orthogonal matrices times √2, or"
    " [pretrained weights](../guide/own_training.md#pretrained-weights)",
    "protocol": "use the settings of `[scoring]` for every method, or those of the published code of each method (see"
    " its page; if that code augments images, they are augmented according to `[recipe]`)",
    "pattern": "the weights that a mask prunes together: single weights, whole output channels, or M - N of every M"
    " inputs, as in `2:4` ([patterns](../guide/scope.md#patterns))",
    "mask_updates": "change the mask during training ([mask updates](../guide/mask_updates.md))",
}


def grid_page() -> str:
    """Return the page of the axes, `[recipe]` and `[scoring]`."""
    return "\n".join(
        [
            "# A grid file",
            "",
            "One TOML file describes one study. An unknown key or an invalid value is an error of one line that",
            "names the nearest valid key or the valid values. `--set recipe.epochs=2` changes a key for one call.",
            "`--set grid.method=snip` leaves the options of the other methods out too.",
            "",
            "- `name`: name of the study; its results are in `results/<name>/`",
            "- `dense`: also run the dense network, once per dataset, model, seed and init (default `true`)",
            "- `contributed`: who ran the study, of a [contributed study](../contributing.md#contribute-a-study) only",
            "- `recipe`: the name of a [published recipe](recipes.md), in place of the table `[recipe]`",
            "",
            *_table(
                "[grid]", RunSpec, _AXES, "Each axis is one value or a list. The study is the product of all axes."
            ),
            *_table(
                "[recipe]", Recipe, _comments(Recipe), f"These keys set the training of the masked network. {_LISTS}"
            ),
            *_table("[scoring]", Scoring, _comments(Scoring), f"{inspect.cleandoc(Scoring.__doc__ or '')} {_LISTS}"),
            *_options(),
        ]
    )


def _options() -> list[str]:
    """Return the section on the options of methods, with a row per shipped method that has options."""
    rows = [
        f"| `[options.{name}]` | {', '.join(f'`{option.name} = {toml(option.default)}`' for option in options)} |"
        for name, entry in pruners().items()
        if entry.shipped and (options := entry.options.values())
    ]
    return [
        "## `[options.METHOD]`",
        "",
        "A table per method sets its options: those of the method and those of the statistics that it uses. A list is",
        "an axis of this method alone, and several lists are combined. `pbt-bench list methods` and `pbt-bench list",
        "statistics` print the options of your own files too.",
        "",
        "| table | options with their defaults |",
        "|---|---|",
        *rows,
        "",
    ]


def _table(title: str, struct: type[Checked], meanings: dict[str, str], text: str) -> list[str]:
    rows = [_row(field, meanings[field.name]) for field in fields(struct) if field.name in meanings]
    return [f"## `{title}`", "", text, "", "| key | default | values, meaning |", "|---|---|---|", *rows, ""]


def _row(field: msgspec.structs.FieldInfo, meaning: str) -> str:
    default = "required" if field.required else "none" if field.default is None else f"`{toml(field.default)}`"
    texts = [constraint.text.replace("'", "`") for _, constraint in annotated(field.type) if constraint]
    return f"| `{field.name}` | {default} | {'; '.join(text for text in (*texts, meaning) if text)} |"


def _comments(struct: type[Checked]) -> dict[str, str]:
    """Return the comment above or beside each field, as one line."""
    found = _COMMENTED.findall(inspect.getsource(struct))
    return {name: " ".join(re.findall(r"# (.*)", above)) or beside for above, name, beside in found}


def record_page() -> str:
    """Return the page of the parts of a record."""
    lines = [
        "# A record",
        "",
        "One finished run is one JSON file, `results/<name>/runs/<run_id>.json`. `pbt-bench show RUN_ID` prints it;",
        "`pbt_bench.load_results` reads all records into one data frame. A field without a value is `null`.",
        "",
    ]
    for title, kind in (
        ("The record", RunRecord), ("`metrics`", Metrics), ("`pruning`", Pruning), ("`pruning.layers`", Layer),
        ("`pruning.mask_metrics`", MaskMetrics),
        ("`curve`", Epoch),
    ):  # fmt: skip
        code = inspect.getsource(kind).split("\n    def ")[0]
        rows = [
            f"| `{name}` | `{type_.replace('|', 'or')}` | {meaning} |" for name, type_, meaning in _FIELD.findall(code)
        ]
        text = inspect.cleandoc(kind.__doc__ or "")
        lines += [f"## {title}", "", text, "", "| field | type | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


assert _AXES.keys() == {field.name for field in fields(Axes)}
assert {field.name for field in fields(_GridFile)} == {
    *("name", "grid", "recipe", "scoring", "options", "dense", "contributed")
}
