"""Fast execution of masked networks: compiled kernels, sparse convolution, live channels, memory formats.

Nothing here changes a result beyond rounding; without this package a masked network trains as a dense one.
"""
