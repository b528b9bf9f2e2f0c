"""Constants that were chosen by measurement: `python benchmarks/tuning.py`, log in benchmarks/tuning.md."""

SAMPLES_AT_ONCE = 32  # samples that are propagated at once on a CPU, so that their activations stay in the cache
SAMPLES_AT_ONCE_CUDA = 256  # the same on a GPU
BATCHED_WEIGHTS = 20_000  # of a layer; up to here one batched product for all groups replaces a product per group
# Positions of a group up to which kernels/groups.h, which has the same constant, replaces a product and two sums.
GROUP_POSITIONS = 256
GROUP_ELEMENTS = 2**24  # elements of group gradients that are in memory at the same time
WALKS_AT_ONCE = 4096  # random walks of a batch
