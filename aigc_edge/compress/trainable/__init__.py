"""ONNX graphs as torch functions whose float constants can be trained; torch is imported by its modules only."""
