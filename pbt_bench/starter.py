"""Files to start from: a study, a cluster profile and a method, each with comments. They run as they are."""

from __future__ import annotations

import shlex
from pathlib import Path

from pbt_bench import shipped
from pbt_bench.errors import RequestError

_STUDY = """\
# My study: three methods at two sparsities on 8x8 digits, which need no download. It takes about a minute on two cores.
name = "my_study"                   # the records are written to results/my_study/

[grid]                              # every list is an axis, and the study is their product
dataset = ["digits"]                # pbt-bench list datasets
model = ["vgg8"]                    # pbt-bench list models
method = ["random", "snip", "fts"]  # pbt-bench list methods; your own: add "my_method" (my_methods/my_method.py)
sparsity = [0.8, 0.95]              # share of pruned weights; a dense network is added
seed = [0, 1, 2]
# scope = ["global", "erk"]         # pbt-bench list scopes

[recipe]                            # training
epochs = 4
batch_size = 64
learning_rate = 0.1                 # a list is an axis here too: [0.01, 0.1]

[scoring]                           # the data that the scores are computed from
samples_per_class = 10
batchnorm = "calibrated"            # "running": the statistics of the model as it is; "batch": those of each batch

# [options.my_method]               # options of one method
# power = [0.5, 1.0]
"""

_METHOD = '''\
"""A method is a function that returns a score for every weight. The weights with the highest scores are kept."""

from pbt_bench.pruning import pruner


@pruner(cite="where the formula comes from")
def my_method(weight, gradient, *, power=1.0):
    """|g|^p * |θ|: the arguments name statistics (pbt-bench list statistics), and `power` is an option."""
    return gradient.abs() ** power * weight.abs()
'''

_NEXT = """\
next, in {folder}:
  pbt-bench run my_study.toml
  pbt-bench report my_study.toml
  pbt-bench check my_methods/my_method.py
  PBT_BENCH_METHODS=my_methods pbt-bench run my_study.toml --set 'grid.method=["snip", "my_method"]'
  pbt-bench submit my_study.toml --cluster my_cluster.toml --dry-run"""


def write_starter(folder: Path) -> str:
    """Write the files to `folder` and return the commands that use them.

    The cluster profile is the shipped one for GPUs. Raises RequestError and writes nothing if a file exists.
    """
    profile = shipped.folder(shipped.PROFILES) / "gpu.toml"
    texts = {
        folder / "my_study.toml": _STUDY,
        folder / "my_cluster.toml": profile.read_text(encoding="utf-8"),
        folder / "my_methods/my_method.py": _METHOD,
    }
    if there := [str(path) for path in texts if path.exists() or path.is_symlink()]:
        raise RequestError(f"init: {' and '.join(there)} exist{'s' * (len(there) == 1)} already; nothing was written")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    return "\n".join([*(f"wrote {path}" for path in texts), _NEXT.format(folder=shlex.quote(str(folder)))])
