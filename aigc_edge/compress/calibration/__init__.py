"""Calibration data along the sampling trajectory, and the statistics of activations collected from it."""
