"""What each ONNX operator computes in torch, by group: one function an operator, found by its name."""
