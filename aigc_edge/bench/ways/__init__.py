"""The ways to sample that the benchmark compares: one module a way, found by a scan."""
