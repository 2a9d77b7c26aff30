"""ONNX graphs: their layers and weights, and the passes that rewrite them."""
