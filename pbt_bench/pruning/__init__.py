"""Statistics -> scores -> masks -> diagnosis. The file of a method imports `pruner` from this package.

Importing this package does not import torch, so that listing methods is instant.
"""

from pbt_bench.pruning.pruners import pruner

__all__ = ["pruner"]
