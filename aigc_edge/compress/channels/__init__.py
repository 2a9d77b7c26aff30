"""Structured pruning: which channels of a network can be removed together, and the network without them."""
