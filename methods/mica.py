from pbt_bench.pruning import pruner


@pruner(cite="Minimum Connection Assurance (MiCA), TMLR 2024", original={"output_channels": "rand"})
def mica(assured_mask):
    """Random weights at given layer counts, placed so that they lie on paths from input to output; needs no data.

    Masks of two networks at three sparsities and two choices of channels equal those of
    Hikari43/minimum_connection_assurance 9b14283, Layers/layers.py, for the same layer counts and the same random
    numbers. The code takes counts from IGQ, ERK or the mask of another method, here they are those of a scope. For a
    linear layer behind several positions (VGG for ImageNet) it also begins with one input of every channel.
    """
    return assured_mask
