"""TensorRT plans: built in a process of their own, checked against the build log, cached. It holds no engines."""
