"""Compression with evidence: formats are values, and each converts ONNX files and reports what that cost in quality."""
