"""pbt-bench: which pruning-at-initialization method is better, by how much, and is the network really that sparse?

scores = pbt_bench.score(model, batches, method="fts")
masks = pbt_bench.prune(model, batches, method="fts", sparsity=0.98)
pbt_bench.enforce(model, masks, optimizer)  # in your own training loop
print(pbt_bench.diagnose(model, masks, example))
frame = pbt_bench.load_results("results/digits")
pbt_bench.plot.accuracy(frame)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pbt_bench.version import __version__ as __version__

if TYPE_CHECKING:
    from pbt_bench import plot
    from pbt_bench.analysis.records.data_frame import load_results
    from pbt_bench.pruning.api import apply, diagnose, enforce, prune, score, to_torch_prune
    from pbt_bench.running.mask_files import load_masks, save_masks

__all__ = [
    "apply", "diagnose", "enforce", "load_masks", "load_results", "plot", "prune", "save_masks", "score",
    "to_torch_prune",
]  # fmt: skip

_HOMES = dict.fromkeys(("apply", "diagnose", "enforce", "prune", "score", "to_torch_prune"), "pbt_bench.pruning.api")
_HOMES |= dict.fromkeys(("load_masks", "save_masks"), "pbt_bench.running.mask_files")
_HOMES["load_results"] = "pbt_bench.analysis.records.data_frame"


def __getattr__(name: str) -> Any:  # torch and pandas are imported when they are first needed
    if name == "plot":
        return import_module("pbt_bench.plot")
    if name not in _HOMES:
        raise AttributeError(f"module 'pbt_bench' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
