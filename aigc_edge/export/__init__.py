"""Export: networks to ONNX, bundles to disk."""
