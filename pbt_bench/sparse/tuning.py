"""Constants that decide how a masked network is executed. They change speed, never results beyond rounding.

benchmarks/tuning.py measures them, benchmarks/tuning.md is its log; docs/execution.md has the rule that they enter.
"""

from __future__ import annotations

# Choosing how a layer is executed.
LEAST_SAVING = 10**8  # multiply-adds of a forward pass that `execution = "auto"` must save in a layer
LEAST_EXAMPLES = 32  # examples in a batch; the sparse kernels process many at a time
KEPT_COST = 2.3  # cost of a multiply-add with a kept weight, in multiply-adds of a dense convolution
MOVE_COST = 30  # cost of an activation entry whose memory format changes, in the same unit
FEW_KEPT = 0.33  # share of kept weights up to which updating them alone is cheaper than updating the whole tensor
LARGE_TENSOR = 10**5  # weights of a tensor from which that holds even where the layer is executed densely

# Live channels.
CHANNEL_STEP = 8  # vector kernels process channels in groups of this size
FEW_CHANNELS = 0.75  # share of channels up to which selecting them is cheaper than computing all

# Sparse convolution.
CACHED_CHANNELS = 128  # input channels, times kernel taps, that fit the innermost cache at 256 bytes of examples each
ROW_WEIGHTS = 32  # fewest kept weights of a row for which reading and writing its sum pays
