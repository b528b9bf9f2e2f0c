"""Statistics -> scores -> masks -> diagnosis. A method's file needs one name from here: `pruner`.

Importing this package does not import torch, so that listing methods is instant.
"""

from pbt_bench.pruning.pruners import pruner

__all__ = ["pruner"]
