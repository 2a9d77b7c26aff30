"""Building blocks of networks: small, exportable to ONNX with a dynamic batch, friendly to quantisation."""
