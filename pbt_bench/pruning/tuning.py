"""Constants that were chosen by measurement: `python benchmarks/tuning.py`, log in benchmarks/tuning.md."""

# Samples that are propagated at once; on a CPU the activations of 32 images stay in the cache.
SAMPLES_AT_ONCE = {"cpu": 32, "cuda": 256}
# Weights of a layer up to which the gradients of all groups are one batched product, in place of a product per group.
BATCHED_PRODUCT_WEIGHTS = 20_000
# Positions of a group up to which kernels/groups.h, which has the same constant, replaces a product and two sums.
GROUP_KERNEL_POSITIONS = 256
GROUP_GRADIENT_ELEMENTS = 2**24  # elements of group gradients that are in memory at the same time
WALKS_AT_ONCE = 4096  # random walks of a batch; its time hardly depends on the number below some thousands
