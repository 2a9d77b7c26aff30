"""Building blocks of networks: small, exportable to ONNX with a dynamic batch, and suitable for quantisation."""
