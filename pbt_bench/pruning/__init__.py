"""Statistics -> scores -> masks -> diagnosis. Files of methods import the decorators from this package.

Importing this package does not import torch, so that listing methods is instant.
"""

from pbt_bench.pruning.plugins import pruner, scope, statistic

__all__ = ["pruner", "scope", "statistic"]
