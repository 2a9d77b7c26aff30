"""ONNX operators in torch, by group: one function per operator, registered by its name."""
