"""Scaling and pruning of weights that minimise the error of layer outputs."""
