"""Which weights lie on a path between input and output: live weights, the channel graph, random walks."""
