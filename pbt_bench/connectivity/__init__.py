"""Paths between input and output: live weights, the channel graph, random walks."""
