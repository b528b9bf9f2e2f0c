"""pbt-bench: which pruning-at-initialization method is better, by how much, and is the network really that sparse?

scores = pbt_bench.score(model, batches, method="fts")
masks = pbt_bench.prune(model, batches, method="fts", sparsity=0.98)
pbt_bench.apply(model, masks)
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
    from pbt_bench.pruning.api import apply, diagnose, prune, score

__all__ = ["apply", "diagnose", "load_results", "plot", "prune", "score"]

_HOMES = dict.fromkeys(("apply", "diagnose", "prune", "score"), "pbt_bench.pruning.api")
_HOMES["load_results"] = "pbt_bench.analysis.records.data_frame"


def __getattr__(name: str) -> Any:  # torch and pandas are imported when they are first needed
    if name == "plot":
        return import_module("pbt_bench.plot")
    if name not in _HOMES:
        raise AttributeError(f"module 'pbt_bench' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
