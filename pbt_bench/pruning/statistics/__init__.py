"""The registry of statistics: named quantities per weight, which score functions request by argument name.

    @statistic(cite="Sun et al. 2024, arXiv:2306.11695")
    def input_norm(task):
        ...
        return {name: tensor for name in task.parameters}

To add a statistic, write a function in a file of this folder. Importing this package does not import torch.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from pbt_bench import registry

if TYPE_CHECKING:
    from pbt_bench.pruning.task import Task, Tensors

    Function = Callable[[Task], Tensors]


@dataclass(frozen=True)
class Statistic:
    """A registered statistic."""

    name: str
    function: Function
    cite: str
    data: bool
    symbol: str
    formula: str
    summary: str


_STATISTICS: registry.Registry[Statistic] = registry.Registry("statistic")


def statistic(*, cite: str, data: bool = True, symbol: str = "", formula: str = "") -> Callable[[Function], Function]:
    r"""Register a function of a `Task` as the statistic of its own name.

    The function returns a tensor for every prunable weight tensor, of that tensor's shape, by parameter name.
    Statistics with `data=False` do not depend on the scoring data and see the model as it stands; for the others its
    batch normalisation is first put into the mode of `scoring.batchnorm`. `symbol` and `formula` are LaTeX for the
    documentation, in which a bar is written `\vert`. Raises RequestError if the name is taken.
    """

    def register(function: Function) -> Function:
        name = function.__name__
        summary = (inspect.getdoc(function) or "").split("\n", 1)[0]
        plain = r"\mathrm{" + name.replace("_", r"\_") + "}"
        entry = Statistic(name, function, cite, data, symbol or plain, formula, summary)
        _STATISTICS.add(name, entry, registry.origin(function))
        return function

    return register


@cache
def statistics() -> registry.Registry[Statistic]:
    """Return all statistics; every module of this folder is imported once."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return _STATISTICS
