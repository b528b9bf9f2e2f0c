from pbt_bench.pruning import pruner


@pruner(cite="made for the tests")
def channel_mean(weight):
    """|θ|/n with n weights per channel: the sum over a channel is the mean magnitude, for pattern = "channel"."""
    return weight.abs() / weight[0].numel()
