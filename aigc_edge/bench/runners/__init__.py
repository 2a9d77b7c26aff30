"""The runners that the benchmark compares: one module each, discovered by a scan."""
